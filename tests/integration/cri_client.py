"""A client of containerd's CRI (gRPC on its socket): cri_client.py SOCKET, a JSON object per line in and out.

    {"method": "RuntimeService/Version", "request": {}, "seconds": 60} -> {"response": {...}} or {"error": "NOT_FOUND", "details": "..."}

The messages are as containerd's program itself describes them: it carries the description of every protocol that it speaks.
Runs with Debian's Python, which has Debian's modules; a process of its own, because the cases may run with another."""

import json
import shutil
import sys
import zlib

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

PACKAGE = "runtime.v1"
GZIP = b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # no name, no time: as Go's generators write descriptions


def description(program):
    with open(program, "rb") as file:
        data = file.read()
    at = data.find(GZIP)
    while at >= 0:
        try:
            plain = zlib.decompressobj(wbits=31).decompress(data[at:at + (1 << 20)])
            found = descriptor_pb2.FileDescriptorProto.FromString(plain)
        except Exception:  # something else that begins so
            found = None
        if found is not None and found.package == PACKAGE:
            del found.dependency[:]  # how Go's types look, which is no matter of the messages
            return found
        at = data.find(GZIP, at + 1)
    raise SystemExit(f"{program} does not describe {PACKAGE}")


class Client:
    def __init__(self, socket):
        pool = descriptor_pool.DescriptorPool()
        found = description(shutil.which("containerd"))
        pool.Add(found)
        factory = message_factory.MessageFactory(pool)
        self.methods = {}
        for service in found.service:
            for method in service.method:
                kinds = [factory.GetPrototype(pool.FindMessageTypeByName(name.lstrip(".")))
                         for name in (method.input_type, method.output_type)]
                self.methods[f"{service.name}/{method.name}"] = kinds
        self.channel = grpc.insecure_channel(f"unix://{socket}", options=(("grpc.enable_http_proxy", 0),))

    def call(self, method, request, seconds):
        asked, answered = self.methods[method]
        message = json_format.ParseDict(request, asked())
        function = self.channel.unary_unary(f"/{PACKAGE}.{method}", request_serializer=asked.SerializeToString,
                                            response_deserializer=answered.FromString)
        try:
            # A connection that containerd's end broke is made again.
            found = function(message, timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            return {"error": error.code().name, "details": error.details()}
        return {"response": json_format.MessageToDict(found, including_default_value_fields=True, preserving_proto_field_name=True)}


def main():
    client = Client(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(client.call(asked["method"], asked["request"], asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
