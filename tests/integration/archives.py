"""Images as other tools write them: layers, `docker save`, OCI layouts."""

import gzip
import hashlib
import io
import json
import os
import tarfile


def add(archive, name, data=b"", **facts):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for key, value in facts.items():
        setattr(entry, key, value)
    archive.addfile(entry, io.BytesIO(data))


def make_tar(fill):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return out.getvalue()


def layer(**files):
    return make_tar(lambda archive: [add(archive, name, data.encode()) for name, data in files.items()])


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_config(layers, **config):
    return json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2020-05-06T07:08:09.123456789Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]}}).encode()


def docker_save(tags, layers, **config):
    """As `docker save` wrote it before version 25."""
    text = make_config(layers, **config)
    name = hashlib.sha256(text).hexdigest() + ".json"
    paths = [hashlib.sha256(b"%d" % number).hexdigest() + "/layer.tar" for number in range(len(layers))]

    def fill(archive):
        for path, data in zip(paths, layers):
            add(archive, os.path.dirname(path), type=tarfile.DIRTYPE, mode=0o755)
            add(archive, os.path.dirname(path) + "/VERSION", b"1.0")
            add(archive, path, data)
        add(archive, name, text)
        add(archive, "manifest.json", json.dumps([{"Config": name, "RepoTags": tags, "Layers": paths}]).encode())
    return make_tar(fill)


def write_layout(folder, tag, layers):
    """As skopeo and umoci write it: a directory, gzip, the tag alone as the name."""
    os.makedirs(os.path.join(folder, "blobs/sha256"))

    def blob(media, data):
        with open(os.path.join(folder, "blobs/sha256", hashlib.sha256(data).hexdigest()), "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": digest(data), "size": len(data)}

    config = blob("config.v1+json", make_config(layers, Cmd=["sh"]))
    manifest = blob("manifest.v1+json", json.dumps({
        "schemaVersion": 2, "config": config,
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(data)) for data in layers]}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": tag}
    for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", {"schemaVersion": 2, "manifests": [manifest]})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file)
