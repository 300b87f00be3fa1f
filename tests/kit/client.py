"""An independent MCP client: the Python SDK, driven line by line.

    client.py [--mode auto|legacy] http URL        (the bearer token is taken from the variable LINCHPIN_TOKEN)
    client.py [--mode auto|legacy] stdio COMMAND…

The first line it writes tells what was negotiated. Then each line it reads, {"do": VERB, ...arguments}, is one request
and gets one line of answer: {"result": …} or {"error": {"code", "message", "data"}}. It ends with its standard input.
"""

import argparse
import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


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


async def perform(client, do, name="", uri="", arguments=None):
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
    raise ValueError(f"no verb {do!r}")


async def answer(client, line):
    try:
        return {"result": await perform(client, **json.loads(line))}
    except MCPError as error:
        return {"error": error.error.model_dump(mode="json", exclude_none=True)}
    except Exception as error:  # the driver must answer every line, whatever the SDK raises
        return {"error": {"code": 0, "message": f"{type(error).__name__}: {error}"}}


def say(message):
    print(json.dumps(message), flush=True)


async def drive(server, mode):
    async with Client(server, mode=mode, read_timeout_seconds=30) as client:
        info = client.server_info
        say({"result": {"protocolVersion": client.protocol_version, "serverInfo": plain(info) if info else None}})
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(await answer(client, line))


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
    async with httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=300)) as http:
        await drive(streamable_http_client(asked.target[0], http_client=http), asked.mode)


if __name__ == "__main__":
    asyncio.run(main())
