// Two independent MCP clients: the TypeScript SDKs, version 1 and 2, driven line by line as client.py is.
//
//   client.mjs --sdk 1|2 [--mode legacy|auto|2026-07-28] http URL    (the bearer token is taken from LINCHPIN_TOKEN)
//   client.mjs --sdk 1|2 [--mode legacy|auto|2026-07-28] stdio COMMAND…
//
// The first line of output says what was negotiated. Then each line of input, {"do": VERB, ...arguments}, is one
// request and gets one line of answer: {"result": …} or {"error": {"code", "message", "data"}}, with "session", the id
// of the current session. The client ends when its standard input ends.

import { createInterface } from "node:readline";
import { parseArgs } from "node:util";

const { values: asked, positionals } = parseArgs({
  options: { sdk: { type: "string", default: "2" }, mode: { type: "string", default: "legacy" } },
  allowPositionals: true,
  strict: true,
});
const [transport, ...target] = positionals;
const heard = {};

function hear({ method }) {
  heard[method] = (heard[method] ?? 0) + 1;
}

async function sdk1() {
  if (asked.mode !== "legacy") throw new Error("version 1 has no modes");
  const { Client } = await import("@modelcontextprotocol/sdk/client/index.js");
  const http = await import("@modelcontextprotocol/sdk/client/streamableHttp.js");
  const stdio = await import("@modelcontextprotocol/sdk/client/stdio.js");
  const client = new Client({ name: "kit-sdk-1", version: "1" });
  return { client, Http: http.StreamableHTTPClientTransport, Stdio: stdio.StdioClientTransport };
}

async function sdk2() {
  const { Client, StreamableHTTPClientTransport } = await import("@modelcontextprotocol/client");
  const { StdioClientTransport } = await import("@modelcontextprotocol/client/stdio");
  const mode = ["legacy", "auto"].includes(asked.mode) ? asked.mode : { pin: asked.mode };
  const client = new Client({ name: "kit-sdk-2", version: "1" }, { versionNegotiation: { mode } });
  return { client, Http: StreamableHTTPClientTransport, Stdio: StdioClientTransport };
}

function way({ Http, Stdio }) {
  if (transport === "http") {
    const token = process.env.LINCHPIN_TOKEN;
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    return new Http(new URL(target[0]), { requestInit: { headers } });
  }
  const [command, ...args] = target;
  return new Stdio({ command, args, env: process.env });
}

async function everyPage(list, field) {
  const found = [];
  let cursor;
  do {
    const page = await list(cursor === undefined ? undefined : { cursor });
    found.push(...page[field]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return found;
}

async function perform(client, { do: verb, name, uri, arguments: values, level }) {
  switch (verb) {
    case "list_tools":
      return everyPage((page) => client.listTools(page), "tools");
    case "list_prompts":
      return everyPage((page) => client.listPrompts(page), "prompts");
    case "list_resources":
      return everyPage((page) => client.listResources(page), "resources");
    case "call_tool":
      return client.callTool({ name, arguments: values ?? {} });
    case "get_prompt":
      return client.getPrompt({ name, arguments: values ?? {} });
    case "read_resource":
      return client.readResource({ uri });
    case "ping":
      return client.ping();
    case "set_level":
      return client.setLoggingLevel(level);
    case "subscribe":
      return client.subscribeResource({ uri });
    case "listen":
      await client.listen({ toolsListChanged: true, promptsListChanged: true, resourcesListChanged: true });
      return {};
    case "heard":
      return heard;
    default:
      throw new Error(`no verb ${verb}`);
  }
}

function say(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

// The errors of fetch and others have the reason in their cause.
function why(error) {
  const { code, message, data, cause } = error;
  const reason = cause ? `${message}: ${cause.code ?? ""} ${cause.message}` : message;
  return { code: typeof code === "number" ? code : 0, message: reason, data };
}

const sdk = await { 1: sdk1, 2: sdk2 }[asked.sdk]();
const { client } = sdk;
client.fallbackNotificationHandler = async (notification) => hear(notification);
client.onerror = (error) => console.error(`${new Date().toISOString()} ${error.message}`);
const wire = way(sdk);
await client.connect(wire);
say({
  result: {
    protocolVersion: wire.protocolVersion ?? client.getNegotiatedProtocolVersion?.() ?? null,
    serverInfo: client.getServerVersion() ?? null,
  },
  session: wire.sessionId ?? null,
});
for await (const line of createInterface({ input: process.stdin })) {
  try {
    say({ result: await perform(client, JSON.parse(line)), session: wire.sessionId ?? null });
  } catch (error) {
    say({ error: why(error), session: wire.sessionId ?? null });
  }
}
await client.close();
