"""A client for the conformance suite that reaches the suite's server through the hub: what is judged is the hub's half.

    through_hub.py URL        (as `conformance client --command` runs it, with its variables MCP_CONFORMANCE_*)

LINCHPIN_BIN is the `linchpin` to use, in whose LINCHPIN_HOME a hub without a token runs; CLIENT_ERA is `older` or
`modern`. It puts the server behind an instance of its own, lists and calls what there is, and takes the instance away.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

URL = sys.argv[1]
SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
MODERN = os.environ.get("CLIENT_ERA") == "modern"
NAME = f"suite-{os.getpid()}"
CAN = {"elicitation": {}, "sampling": {}, "roots": {}}
INFO = {"name": "through-hub", "version": "1"}
PREFIX = "io.modelcontextprotocol/"


def linchpin(*arguments):
    return subprocess.run([os.environ["LINCHPIN_BIN"], *arguments], stdout=subprocess.DEVNULL, check=True)


class Client:
    def __init__(self, address):
        self.address, self.session, self.last = address, None, 0
        if not MODERN:
            params = {"protocolVersion": "2025-11-25", "capabilities": CAN, "clientInfo": INFO}
            self.request("initialize", params)
            self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def post(self, message):
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if MODERN and "id" in message:
            headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
            about = message["params"].get("name") or message["params"].get("uri")
            if about:
                headers["mcp-name"] = about
            # As for a client on a pipe, the hub itself adds the headers that repeat arguments.
            headers["linchpin-over-stdio"] = "1"
        elif self.session:
            headers["mcp-session-id"] = self.session
        request = urllib.request.Request(self.address, json.dumps(message).encode(), headers)
        try:
            answer = urllib.request.urlopen(request, timeout=15)
        except urllib.error.HTTPError as error:
            answer = error
        self.session = answer.headers.get("mcp-session-id") or self.session
        return answer

    def messages(self, answer):
        if "text/event-stream" not in (answer.headers.get("content-type") or ""):
            text = answer.read()
            if text:
                yield json.loads(text)
            return
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data:":
                yield json.loads(line[6:])

    def request(self, method, params):
        """The response; what the server asks meanwhile is answered."""
        self.last += 1
        if MODERN:
            params = {**params, "_meta": {PREFIX + "protocolVersion": "2026-07-28", PREFIX + "clientInfo": INFO,
                                          PREFIX + "clientCapabilities": CAN}}
        for message in self.messages(self.post({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params})):
            if "method" in message and "id" in message:
                self.post({"jsonrpc": "2.0", "id": message["id"], "result": given(message)})
            elif message.get("id") == self.last:
                return message
        return {}

    def call(self, method, params):
        """The response to a call, in as many rounds as it takes."""
        more = {}
        for _ in range(8):
            response = self.request(method, {**params, **more})
            result = response.get("result") or {}
            if result.get("resultType") != "input_required":
                return response
            asked = result.get("inputRequests") or {}
            more = {"inputResponses": {key: given(request) for key, request in asked.items()}} if asked else {}
            if "requestState" in result:
                more["requestState"] = result["requestState"]
        return response


def given(request):
    """What a person, a model or an editor answers: everything is accepted, with its defaults."""
    params = request.get("params") or {}
    if request["method"] == "elicitation/create":
        fields = (params.get("requestedSchema") or {}).get("properties") or {}
        sample = {"boolean": True, "integer": 1, "number": 1.5}
        content = {key: field.get("default", sample.get(field.get("type"), "x")) for key, field in fields.items()}
        return {"action": "accept", "content": content}
    if request["method"] == "sampling/createMessage":
        return {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "none"}
    return {"roots": []}


def arguments(tool, tools):
    """Something of the right kind for every argument that has to be there."""
    if tool["name"] == "json_schema_echo":
        return {"schema": tools["json_schema_2020_12_tool"]["inputSchema"]}
    schema = tool.get("inputSchema") or {}
    sample = {"boolean": True, "integer": 1, "number": 1.5, "object": {}, "array": [], "null": None}
    fields = schema.get("properties") or {}
    return {key: sample.get(field.get("type"), "x") for key, field in fields.items() if key in schema.get("required", [])}


def use(client):
    tools = {tool["name"]: tool for tool in client.request("tools/list", {}).get("result", {}).get("tools", [])}
    calls = CONTEXT.get("toolCalls") or [{"name": name, "arguments": arguments(tools[name], tools)} for name in tools]
    for call in calls:
        client.call("tools/call", {"name": call["name"], "arguments": call.get("arguments") or {}})
    for resource in client.request("resources/list", {}).get("result", {}).get("resources", []):
        client.call("resources/read", {"uri": resource["uri"]})
    for prompt in client.request("prompts/list", {}).get("result", {}).get("prompts", []):
        wanted = {each["name"]: "x" for each in prompt.get("arguments") or []}
        client.call("prompts/get", {"name": prompt["name"], "arguments": wanted})


def main():
    hub = json.load(open(os.path.join(os.environ["LINCHPIN_HOME"], "hub.json")))["url"]
    linchpin("run", "--name", NAME, "--detach", "--mcp-url", URL, "--", "sleep", "600")
    try:
        client = Client(f"{hub}/i/{NAME}/mcp")
        use(client)
    finally:
        linchpin("stop", NAME)


if __name__ == "__main__":
    main()
