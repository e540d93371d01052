"""The WWPF process that the agent starts: configuration, secrets included, as one JSON line on standard input.

The agent keeps the pipe open; when it closes, the agent is gone and so is this process.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from imskit.observe import logs
from imskit.tasks import spawn
from ue_agent.private_memory import keep_private
from ue_agent.wwpf.config import WwpfConfig
from ue_agent.wwpf.proxy import WebProxy, WwpfError


async def _main() -> int:
    keep_private()  # before the secrets come
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    config = WwpfConfig.from_json((await reader.readline()).decode())
    logs.set_up(config.log_level)
    proxy = WebProxy(config)
    try:
        await proxy.start()
    except WwpfError as error:
        print(f"wwpf: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ended = spawn(reader.read(), "wwpf-parent")
    stopped = spawn(stop.wait(), "wwpf-stop")
    await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    stopped.cancel()
    await proxy.aclose()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
