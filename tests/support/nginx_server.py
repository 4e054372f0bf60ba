"""nginx, where it is installed, on 127.0.0.1, with a folder of its own for all it writes."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import staying

_PROGRAM = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

needs_nginx = pytest.mark.skipif(_PROGRAM is None, reason="nginx is not installed")
"""Marks a test that is about nginx."""

_CONFIG = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ text/plain txt; }}
    server {{
        listen 127.0.0.1:{port};
        {settings}
    }}
}}
"""


@contextmanager
def serving_nginx(folder: Path, settings: str) -> Iterator[int]:
    """Run nginx for a block, with these lines in its ``server``, and give its port."""
    assert _PROGRAM is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        config = folder / "nginx.conf"
        # As root it would become nobody, who may not write here.
        user = "" if os.geteuid() else "user root;"
        config.write_text(_CONFIG.format(folder=folder, port=port, user=user, settings=settings))
        # It takes a listening socket over from an older nginx by its number. So the port is ours,
        # and connections wait in its queue until there is somebody to take them.
        process = subprocess.Popen(
            [_PROGRAM, "-p", str(folder), "-c", str(config)],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    with staying(process, (folder / "error.log").read_text):
        yield port
