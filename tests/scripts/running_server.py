"""A server that runs while a context is open, for the scripts that call it with other people's clients."""

import contextlib
import os
import subprocess
import sys


@contextlib.contextmanager
def running_server(binary, model, *options, variables=None):
    """Starts `BINARY serve MODEL` on a free port, with more options and environment variables; yields its address."""
    command = [binary, "serve", model, "--port", "0", *options]
    environment = {**os.environ, **(variables or {})}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            for line in process.stderr:
                if line.startswith("listening on "):
                    break
            else:
                sys.exit(f"it ended with {process.wait()}")
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()
            process.wait(10)
