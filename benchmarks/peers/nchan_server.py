"""nginx with nchan, in one worker process. It has no echo: it only passes on what is published."""

import gzip
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.by_path import publisher
from benchmarks.peers import FanOut, Line, Peer, Rooms

NGINX = Path(__file__).with_name("nginx")
"""Where `scripts/setup.sh bench` unpacks Debian's packages; nothing of them is installed."""
PROGRAM = NGINX / "usr/sbin/nginx"
MODULE = NGINX / "usr/lib/nginx/modules/ngx_nchan_module.so"
RUN = NGINX / "run"

if not (PROGRAM.exists() and MODULE.exists()):
    raise ImportError(
        "nginx and nchan are not in benchmarks/peers/nginx; on Debian make bench puts them there"
    )


def subscriber(room: int) -> Line:
    return Line(f"/subscribe/{room}")


@cache
def versions() -> dict[str, str]:
    told = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True).stderr
    with gzip.open(NGINX / "usr/share/doc/libnginx-mod-nchan/changelog.Debian.gz", "rt") as changes:
        newest = changes.readline()  # libnginx-mod-nchan (1:1.3.6+dfsg-2) unstable; urgency=medium
    return {"nginx": told.strip().rpartition("/")[2], "nchan": newest.partition(":")[2].partition(")")[0]}


peer = Peer(
    name="nchan",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "off"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "on"],
    fanout=FanOut(subscriber(0), publisher(0)),
    rooms=Rooms(subscriber, publisher, publish=lambda _, text: text),
    versions=versions,
)

CONFIGURATION = """
load_module {module};
daemon off;
user www-data;
worker_processes 1;
error_log stderr warn;
pid nginx-{port}.pid;
events {{
    worker_connections {connections};
    multi_accept on;
}}
http {{
    access_log off;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    nchan_shared_memory_size 256M;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location ~ ^/publish/(.+)$ {{
            nchan_publisher websocket;
            nchan_channel_id $1;
            nchan_message_buffer_length 100;
            nchan_deflate_message_for_websocket {deflate};
        }}
        location ~ ^/subscribe/(.+)$ {{
            nchan_subscriber websocket;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def main(port: int, deflate: str) -> None:
    """Become nginx, which reads its configuration from memory: there is no file to clean up."""
    RUN.mkdir(exist_ok=True)
    connections = min(32768, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    configuration = os.memfd_create("nginx.conf", 0)
    os.write(
        configuration,
        CONFIGURATION.format(module=MODULE, port=port, connections=connections, deflate=deflate).encode(),
    )
    os.execv(PROGRAM, [str(PROGRAM), "-p", str(RUN), "-c", f"/proc/self/fd/{configuration}", "-e", "stderr"])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
