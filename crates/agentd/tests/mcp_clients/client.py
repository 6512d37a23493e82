"""The official client of MCP lists and calls every tool of a server.

Usage: client.py MODE SERVER...: MODE is `auto`, `legacy` or a revision; SERVER is a URL with its headers as JSON, or a command.
Prints one JSON object: the revision, the tools, and the result of each call.
"""

import asyncio
import json
import os
import sys

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

CALLS = [
    ("fs_write_v1", {"path": "note.txt", "content": "one\ntwo\n"}),
    ("fs_read_v1", {"path": "note.txt"}),
    ("fs_edit_v1", {"path": "note.txt", "edits": [{"literal": {"old": "two", "new": "2"}}]}),
    ("fs_list_v1", {"path": "."}),
    ("fs_stat_v1", {"path": "note.txt"}),
    ("fs_search_v1", {"path": ".", "pattern": "one"}),
    ("fs_move_v1", {"from": "note.txt", "to": "moved.txt"}),
    ("shell_exec_v1", {"command": "tar czf a.tgz moved.txt && cat moved.txt"}),
    ("archive_read_v1", {"path": "a.tgz"}),
    ("code_run_v1", {"language": "bash", "source": "echo $((40 + 2))"}),
    ("sqlite_query_v1", {"path": "d.db", "sql": "create table t (a)", "write": True}),
    ("fs_watch_v1", {"path": ".", "time_ms": 10}),
    ("http_fetch_v1", {"url": "http://127.0.0.1:1/"}),
    ("git_clone_v1", {"url": "https://127.0.0.1:1/r.git", "to": "r"}),
    ("sandbox_create_v1", {"sandbox": "dev"}),
    ("sandbox_write_v1", {"sandbox": "dev", "path": "/tmp/note", "text": "one"}),
    ("sandbox_read_v1", {"sandbox": "dev", "path": "/tmp/note"}),
    ("shell_exec_v1", {"command": "cat /tmp/note", "_sandbox": "dev"}),
    ("sandbox_snapshot_v1", {"sandbox": "dev", "snapshot": "one"}),
    ("sandbox_diff_v1", {"sandbox": "dev"}),
    ("sandbox_fork_v1", {"sandbox": "dev", "new": "copy"}),
    ("sandbox_suspend_v1", {"sandbox": "dev"}),
    ("sandbox_resume_v1", {"sandbox": "dev"}),
    ("sandbox_restore_v1", {"sandbox": "dev", "snapshot": "one"}),
    ("sandbox_get_v1", {"sandbox": "dev"}),
    ("sandbox_inspect_v1", {"sandbox": "dev"}),
    ("sandbox_list_v1", {}),
    ("sandbox_terminate_v1", {"sandbox": "dev"}),
    ("sandbox_terminate_v1", {"sandbox": "copy"}),
    ("shell_exec_v1", {"command": "seq 1 100000"}),
    ("fs_remove_v1", {"path": "moved.txt"}),
    ("call_wait", {"handle": "none"}),
    ("call_cancel", {"handle": "none"}),
]


async def approve(context, params):
    return ElicitResult(action="accept", content={"decision": "approve"})


async def main(mode, server, workspace):
    progress = []

    async def on_progress(done, total, message):
        progress.append(message)

    # The client compares each structured result with the tool's output schema, and raises an error if it does not match.
    async with Client(server, mode=mode, elicitation_callback=approve) as client:
        tools = (await client.list_tools()).tools
        calls = []
        for name, arguments in CALLS:
            tool = next(tool for tool in tools if tool.name == name)
            if workspace and "_workspace" in tool.input_schema["properties"] and "_sandbox" not in arguments:
                arguments = arguments | {"_workspace": workspace}
            result = await client.call_tool(name, arguments, progress_callback=on_progress)
            calls.append([name, bool(result.is_error), result.structured_content])
        handle = next(content["cut"][0]["handle"] for _, _, content in calls if content.get("cut"))
        result = await client.call_tool("output_read", {"handle": handle, "cursor": 20})
        calls.append(["output_read", bool(result.is_error), result.structured_content])
        version = client.session.protocol_version
        print(json.dumps({"version": version, "tools": [tool.name for tool in tools], "calls": calls, "progress": len(progress)}))


mode, target, *rest = sys.argv[1:]
if target.startswith("http"):
    headers, workspace = json.loads(rest[0]), rest[1]
    server = streamable_http_client(target, http_client=httpx2.AsyncClient(headers=headers, timeout=60))
else:
    server, workspace = StdioServerParameters(command=target, args=rest, env=dict(os.environ)), None
asyncio.run(main(mode, server, workspace))
