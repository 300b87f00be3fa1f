"""An independent MCP client: the Python SDK, driven line by line.

    client.py [--mode auto|legacy|2026-07-28] http URL    (the bearer token is taken from the variable LINCHPIN_TOKEN)
    client.py [--mode auto|legacy|2026-07-28] stdio COMMAND…

The first line of output says what was negotiated. Then each line of input, {"do": VERB, ...arguments}, is one request
and gets one line of answer: {"result": …} or {"error": {"code", "message", "data"}}, with "session", the id of the
session of the last request. The client ends when its standard input ends.
"""

import argparse
import asyncio
import json
import os
import sys
from collections import Counter

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


# The last session id that was sent, how often each notification arrived, and the open streams of changes.
sent = {"session": None}
heard = Counter()
streams = []


async def note_session(request):
    if request.method == "POST":
        sent["session"] = request.headers.get("mcp-session-id")


async def hear(message):
    if method := getattr(message, "method", None):
        heard[method] += 1


async def follow(client, ready):
    async with client.listen(tools_list_changed=True, prompts_list_changed=True, resources_list_changed=True) as changes:
        ready.set()
        # Notifications also reach `hear`; this loop only keeps the stream open.
        async for _ in changes:
            pass


async def listen(client):
    ready = asyncio.Event()
    streams.append(asyncio.create_task(follow(client, ready)))
    await asyncio.wait([streams[-1], asyncio.ensure_future(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    return {} if ready.is_set() else streams[-1].result()


def plain(value):
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def every_page(list_page, field):
    found, cursor = [], None
    while True:
        page = await list_page(cursor=cursor)
        found += [plain(item) for item in getattr(page, field)]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def perform(client, do, name="", uri="", arguments=None, level=""):
    match do:
        case "list_tools":
            return await every_page(client.list_tools, "tools")
        case "list_prompts":
            return await every_page(client.list_prompts, "prompts")
        case "list_resources":
            return await every_page(client.list_resources, "resources")
        case "call_tool":
            return plain(await client.call_tool(name, arguments or {}))
        case "get_prompt":
            return plain(await client.get_prompt(name, arguments or {}))
        case "read_resource":
            return plain(await client.read_resource(uri))
        case "ping":
            return plain(await client.send_ping())
        case "set_level":
            return plain(await client.set_logging_level(level))
        case "subscribe":
            return plain(await client.subscribe_resource(uri))
        case "listen":
            return await listen(client)
        case "heard":
            return dict(heard)
    raise ValueError(f"no verb {do!r}")


async def answer(client, line):
    try:
        return {"result": await perform(client, **json.loads(line))}
    except MCPError as error:
        return {"error": error.error.model_dump(mode="json", exclude_none=True)}
    except Exception as error:  # the driver must answer every line, whatever the SDK raises
        return {"error": {"code": 0, "message": f"{type(error).__name__}: {error}"}}


def say(message):
    print(json.dumps(message | {"session": sent["session"]}), flush=True)


async def drive(server, mode):
    async with Client(server, mode=mode, read_timeout_seconds=60, message_handler=hear) as client:
        info = client.server_info
        say({"result": {"protocolVersion": client.protocol_version, "serverInfo": plain(info) if info else None}})
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(await answer(client, line))
        for stream in streams:
            stream.cancel()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="auto")
    parser.add_argument("transport", choices=["http", "stdio"])
    parser.add_argument("target", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if asked.transport == "stdio":
        command, *arguments = asked.target
        await drive(StdioServerParameters(command=command, args=arguments, env=dict(os.environ)), asked.mode)
        return
    token = os.environ.get("LINCHPIN_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    hooks = {"request": [note_session]}
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=300), event_hooks=hooks) as http:
        await drive(streamable_http_client(asked.target[0], http_client=http), asked.mode)


if __name__ == "__main__":
    asyncio.run(main())
