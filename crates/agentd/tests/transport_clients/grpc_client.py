"""Calls every method of the daemon by reflection: client.py TARGET. Ends with 0 if every reply is as expected.

The program has no generated code of agentd: it knows the names of services, methods and fields only.
"""

import json
import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "agentd.v1.Agentd"


class Daemon:
    """The daemon's service, as reflection describes it."""

    def __init__(self, channel):
        database = ProtoReflectionDescriptorDatabase(channel)
        self.services = set(database.get_services())
        self.channel = channel
        self.pool = DescriptorPool(database)
        self.methods = {method.name: method for method in self.pool.FindServiceByName(SERVICE).methods}
        self.called = set()

    def message(self, name, /, **fields):
        return GetMessageClass(self.pool.FindMessageTypeByName("agentd.v1." + name))(**fields)

    def call(self, name, /, **fields):
        """Calls a method with one request and one reply."""
        self.called.add(name)
        method = self.methods[name]
        stub = self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        timeout = fields.pop("timeout", None)
        return stub(GetMessageClass(method.input_type)(**fields), timeout=timeout)

    def stream(self, requests):
        self.called.add("ExecuteStream")
        stub = self.channel.stream_stream(
            f"/{SERVICE}/ExecuteStream",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(self.methods["ExecuteStream"].output_type).FromString,
        )
        return stub(requests)

    def request(self, parameters, **fields):
        return self.message(
            "ExecuteRequest", capability="shell.exec.v1", parameters_json=json.dumps(parameters), **fields
        )

    def error(self, name, /, **fields):
        """Returns the code and the encoded details of the error of a call."""
        try:
            self.call(name, **fields)
        except grpc.RpcError as error:
            details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
            return error.code(), details
        raise AssertionError(f"{name} returned no error")


def equal(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


def describes_itself(daemon):
    expected = {SERVICE, "grpc.health.v1.Health"}
    assert expected <= daemon.services, daemon.services
    health = health_pb2_grpc.HealthStub(daemon.channel)
    for service in ("", SERVICE):
        reply = health.Check(health_pb2.HealthCheckRequest(service=service))
        equal(reply.status, health_pb2.HealthCheckResponse.SERVING)
    assert daemon.call("Health").ready


def lists_capabilities(daemon):
    names, token = [], ""
    while True:
        page = daemon.call("ListCapabilities", page_size=3, page_token=token)
        names += [capability.name for capability in page.capabilities]
        token = page.next_page_token
        if not token:
            break
    equal(names, sorted(set(names)))
    for name in names:
        capability = daemon.call("GetCapability", name=name).capability
        equal(json.loads(capability.parameters_schema_json)["type"], "object")
    assert "shell.exec.v1" in names, names


def executes(daemon):
    fields = {"capability": "shell.exec.v1", "parameters_json": json.dumps({"command": "echo out; exit 3"})}
    outcome = daemon.call("Execute", idempotency_key="python", **fields).outcome
    equal((outcome.exit_code, json.loads(outcome.result_json)["stdout"]["text"]), (3, "out\n"))
    again = daemon.call("Execute", idempotency_key="python", **fields).outcome
    equal((again.duplicate, again.intent), (True, outcome.intent))
    invalid = {**fields, "parameters_json": json.dumps({"command": 1})}
    code, details = daemon.error("Execute", **invalid)
    equal(code, grpc.StatusCode.INVALID_ARGUMENT)
    assert b"invalid-parameters" in details and b"parameters_json/command" in details, details
    endless = {**fields, "parameters_json": json.dumps({"command": "sleep 1000"})}
    equal(daemon.error("Execute", timeout=1, **endless)[0], grpc.StatusCode.DEADLINE_EXCEEDED)


def streams(daemon):
    def requests():
        yield daemon.message(
            "ExecuteStreamRequest", execute=daemon.request({"command": "cat; echo err >&2", "stdin_stream": True})
        )
        yield daemon.message("ExecuteStreamRequest", stdin=b"one\n")
        yield daemon.message("ExecuteStreamRequest", stdin=b"two\n")

    output, errors, kinds = b"", b"", []
    for reply in daemon.stream(requests()):
        kind = reply.WhichOneof("message")
        kinds.append(kind)
        output += reply.stdout if kind == "stdout" else b""
        errors += reply.stderr if kind == "stderr" else b""
        if kind == "ended":
            equal(reply.ended.exit_code, 0)
    equal((output, errors), (b"one\ntwo\n", b"err\n"))
    equal((kinds[0], kinds[-1]), ("begun", "ended"))


def keeps_sandboxes(daemon):
    name = {"sandbox": "dev"}
    equal(daemon.call("CreateSandbox", **name).sandbox.sandbox, "dev")
    capabilities = daemon.call("GetSandboxCapabilities", **name)
    assert capabilities.proven and capabilities.claims["filesystem_isolation"], capabilities
    daemon.call("SnapshotSandbox", snapshot="empty", **name)
    daemon.call("WriteFile", path="/tmp/a", content=b"\x00one", **name)
    equal(daemon.call("ReadFile", path="/tmp/a", offset=1, **name).content, b"one")
    changes = daemon.call("DiffSandbox", since="empty", **name)
    daemon.call("ForkSandbox", new_sandbox="copy", **name)
    daemon.call("SuspendSandbox", **name)
    daemon.call("ResumeSandbox", **name)
    daemon.call("RestoreSandbox", snapshot="empty", **name)
    assert changes.total >= 1
    equal(daemon.error("ReadFile", path="/tmp/a", **name)[0], grpc.StatusCode.FAILED_PRECONDITION)
    equal(daemon.call("GetSandbox", **name).sandbox.sandbox, "dev")
    equal([found.sandbox for found in daemon.call("ListSandboxes").sandboxes], ["copy", "dev"])
    for sandbox in ("copy", "dev"):
        daemon.call("TerminateSandbox", sandbox=sandbox)
    equal(daemon.error("GetSandbox", **name)[0], grpc.StatusCode.NOT_FOUND)


def answers_the_other_calls(daemon):
    unknown = "0" * 32
    equal(daemon.error("Cancel", intent=unknown)[0], grpc.StatusCode.NOT_FOUND)
    equal(daemon.error("Cancel", intent="x")[0], grpc.StatusCode.INVALID_ARGUMENT)
    equal(len(daemon.call("ListApprovals").approvals), 0)
    equal(daemon.error("DecideApproval", intent=unknown, decision=1)[0], grpc.StatusCode.NOT_FOUND)


def main():
    # By default, the authority of a Unix socket is its path, which is no authority of HTTP/2 (RFC 9113, section 8.3.1).
    with grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "localhost")]) as channel:
        daemon = Daemon(channel)
        for check in (describes_itself, lists_capabilities, executes, streams, keeps_sandboxes, answers_the_other_calls):
            check(daemon)
            print(check.__name__)
        equal(daemon.called, set(daemon.methods))


main()
