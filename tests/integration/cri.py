"""containerd's CRI plugin with joey as its runtime, as a kubelet would drive it; networks by CNI plugins."""

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import time

import containerd
from harness import PATIENCE, Failed, equal, holds, run, short
from own_network import own_machine

NAME_SPACE = "k8s.io"  # the plugin's
PAUSE = "joey.test/pause:latest"
BRIDGE = "cni-cri"
CONFIG = """[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  disable_tcp_service = true
  stream_server_port = "0"
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  default_runtime_name = "tested"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested]
  runtime_type = "{runtime}"
  pod_annotations = ["io.joey.*"]
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{directory}/cni"
"""


def network(directory):
    return {"cniVersion": "0.4.0", "name": "cri", "plugins": [
        {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipMasq": False,
         "ipam": {"type": "host-local", "dataDir": f"{directory}/ipam", "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": "10.90.7.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}]}


class Refused(Exception):
    """What the other side answered instead: code and details."""


class Client:
    def __init__(self, socket):
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cri_client.py")
        self.process = subprocess.Popen(["/usr/bin/python3", program, socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)

    def call(self, method, request, seconds):
        line = json.dumps({"method": method, "request": request, "seconds": seconds * PATIENCE}) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        holds("the client lives", answer, f"status {self.process.poll()}; is there python3-grpcio, python3-protobuf?")
        found = json.loads(answer)
        if "error" in found:
            raise Refused(found["error"], found["details"])
        return found["response"]

    def end(self):
        self.process.kill()
        self.process.wait()


class Cri:
    """The calls that cases need, in their own terms."""

    def __init__(self, one):
        self.one = one
        self.client = Client(f"{one.directory}/sock")
        self.number = 0
        self.configs = {}

    def runtime(self, method, seconds=120, **request):
        try:
            return self.client.call(f"RuntimeService/{method}", request, seconds)
        except Refused as refused:
            raise Failed(f"{method}: {refused.args[0]}: {refused.args[1]}; {short(self.one.log())}") from None

    def refused(self, method, **request):
        """The words with which the call is refused."""
        try:
            answer = self.client.call(f"RuntimeService/{method}", request, 120)
        except Refused as refused:
            return " ".join(refused.args)
        raise Failed(f"{method} is not refused: {answer}")

    def has_image(self, name):
        return self.client.call("ImageService/ImageStatus", {"image": {"image": name}}, 60)["image"] is not None

    def is_ready(self):
        try:
            return (self.has_image(PAUSE) and self.has_image(containerd.IMAGE) and
                    all(entry["status"] for entry in self.runtime("Status")["status"]["conditions"]))
        except Refused as refusal:
            if "not initialized yet" not in refusal.args[1]:  # what the plugin says while containerd starts
                raise
            return False

    def until_ready(self):
        deadline = time.monotonic() + 60 * PATIENCE
        while not self.is_ready():
            holds("the plugin is ready", time.monotonic() < deadline, self.one.log())
            time.sleep(0.2)

    def sandbox(self, name, **more):
        config = {"metadata": {"name": name, "uid": name, "namespace": "default", "attempt": 0}, "hostname": name,
                  "log_directory": f"{self.one.directory}/logs/{name}",
                  "annotations": {"io.joey.memory": "256M", "io.joey.vcpus": "1"}, "linux": {}, **more}
        pod = self.runtime("RunPodSandbox", config=config)["pod_sandbox_id"]
        self.configs[pod] = config
        return pod

    def container(self, pod, name, *command, **more):
        """Made and started."""
        config = {"metadata": {"name": name, "attempt": 0}, "image": {"image": containerd.IMAGE}, "command": list(command),
                  "log_path": f"{name}.log", "linux": {}, **more}
        made = self.runtime("CreateContainer", pod_sandbox_id=pod, config=config, sandbox_config=self.configs[pod])["container_id"]
        self.runtime("StartContainer", container_id=made)
        return made

    def status(self, container):
        return self.runtime("ContainerStatus", container_id=container)["status"]

    def until(self, container, state, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while True:
            found = self.status(container)
            if found["state"] == state:
                return found
            holds(f"{container} becomes {state}", time.monotonic() < deadline, str(found))
            time.sleep(0.1)

    def log(self, pod, name):
        """Lines: (stream, text)."""
        with open(f"{self.configs[pod]['log_directory']}/{name}.log", encoding="utf-8") as file:
            return [(words[1], words[3].rstrip("\n")) for words in (line.split(" ", 3) for line in file) if len(words) == 4]

    def until_log(self, pod, name, line, seconds=60):
        deadline = time.monotonic() + seconds * PATIENCE
        while line not in self.log(pod, name):
            holds(f"{name} says {line}", time.monotonic() < deadline, str(self.log(pod, name)))
            time.sleep(0.1)

    def address(self, pod):
        return self.runtime("PodSandboxStatus", pod_sandbox_id=pod)["status"]["network"]["ip"]

    def remove(self, pod):
        self.runtime("StopPodSandbox", pod_sandbox_id=pod)
        self.runtime("RemovePodSandbox", pod_sandbox_id=pod)

    def remove_all(self):
        for pod in self.runtime("ListPodSandbox")["items"]:
            with contextlib.suppress(Failed):
                self.remove(pod["id"])

    # ---- what is left behind ----------------------------------------------------------------------

    def leftovers(self):
        one = self.one
        found = []
        for kind in ("Pods", "Containers"):
            key, method = ("items", "ListPodSandbox") if kind == "Pods" else ("containers", "ListContainers")
            found += [f"{kind} {entry['id']}" for entry in self.runtime(method)[key]]
        found += [f"containerd's container {name}" for name in one.must("containers", "ls", "--quiet").out.decode().split()]
        for place in (f"{one.directory}/ipam/cri", f"{one.directory}/state/io.containerd.grpc.v1.cri",
                      f"{one.directory}/root/io.containerd.grpc.v1.cri"):
            for top, _, files in os.walk(place):
                found += [os.path.join(top, name) for name in files
                          if name not in ("lock", "version") and not name.startswith("last_reserved_ip")]
        for top, directories, _ in os.walk("/sys/fs/cgroup"):
            found += [f"control group {top}/{name}" for name in directories if os.path.basename(top) == NAME_SPACE]
        found += [line for line in run(["ip", "-o", "link", "show", "type", "veth"]).out.decode().splitlines()]
        found += [line for line in run(["iptables", "-t", "nat", "-S"]).out.decode().splitlines() if "CNI-DN-" in line]
        return found

    def nothing_is_left(self):
        containerd.nothing_is_left(self.one)
        deadline = time.monotonic() + 30 * PATIENCE
        while self.leftovers() and time.monotonic() < deadline:
            time.sleep(0.2)
        equal("left behind", [], self.leftovers())


RUNNING = []  # one for all cases


def begin():
    own_machine()
    one = containerd.begin("native", disabled=(), name_space=NAME_SPACE, more=lambda directory: CONFIG.format(
        pause=PAUSE, runtime=containerd.RUNTIME, directory=directory))
    os.makedirs(f"{one.directory}/cni", exist_ok=True)
    with open(f"{one.directory}/cni/10-cri.conflist", "w", encoding="utf-8") as file:
        json.dump(network(one.directory), file)
    one.import_image(name=PAUSE, command=("sleep", "1000000"))
    cri = Cri(one)
    atexit.register(cri.client.end)
    cri.until_ready()
    return cri


@contextlib.contextmanager
def plugin():
    """Runs; the case leaves nothing behind."""
    if not RUNNING:
        RUNNING.append(begin())
    cri = RUNNING[0]
    try:
        yield cri
        cri.nothing_is_left()
    finally:
        if cri.one.process is None:
            cri.one.start()
        with contextlib.suppress(Failed):
            cri.remove_all()
        containerd.kill_all()
        shutil.rmtree(f"{cri.one.directory}/logs", ignore_errors=True)
