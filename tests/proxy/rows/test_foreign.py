"""What nobody here wrote on both sides: curl asks, and httpbin and nginx answer, with the proxy between them."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.curl import Fetched, curl, needs_curl
from tests.support.httpbin_server import needs_httpbin, serving_httpbin
from tests.support.nginx_server import needs_nginx, serving_nginx
from tests.support.proxies import EVERY_SERVER, proxied
from tests.support.raw_client import headers_of

pytestmark = needs_curl

BINARY = bytes(range(256)) * 256
"""64 KiB; curl announces it at once."""
LARGE = BINARY * 32
"""2 MiB; curl waits for a 100 before it sends so much."""
TEXT = b"".join(b"line %d of a page that compresses well\n" % number for number in range(500))

PER_HOP = {b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding"}
"""Lines of the connection and of the server behind which the client is."""


@dataclass(frozen=True)
class Site:
    """An upstream, and the same through the proxy, mounted in a FastAPI app."""

    direct: str
    """Its URL, without a slash at the end."""
    front: str
    server: str

    def both(self, path: str, *arguments: str | Path) -> tuple[Fetched, Fetched]:
        """Fetch the same from the upstream itself and through the proxy."""
        direct, through = (curl(*arguments, url + path) for url in (self.direct, self.front))
        assert direct.code == through.code == 0
        return direct, through


def end_to_end(answer: Fetched) -> list[tuple[bytes, bytes]]:
    """Return the lines that a proxy has no business with; their order among different names means nothing."""
    return sorted((name, value) for name, value in answer.headers if name not in PER_HOP)


# httpbin.


@pytest.fixture(scope="module")
def httpbin_url() -> Iterator[str]:
    """Run httpbin once for all."""
    with serving_httpbin() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=EVERY_SERVER)
def httpbin(request: pytest.FixtureRequest, httpbin_url: str) -> Iterator[Site]:
    """Put the proxy before it, under each server."""
    with proxied(httpbin_url, request.param, door="mounted", rewrite_location=True, rewrite_cookies=True) as port:
        yield Site(httpbin_url, f"http://127.0.0.1:{port}/p", request.param)


STATUSES = [200, 201, 202, 203, 204, 206, 300, 304, 400, 401, 402, 404, 405, 406, 407, 409, 410, 418, 429, 451]
STATUSES += [500, 501, 502, 503, 504, 511]


@needs_httpbin
def test_httpbin_statuses_in_one_connection(httpbin: Site) -> None:
    """Every status passes, with a body or without; and curl makes one connection for all of them."""
    answer = curl(*(f"{httpbin.front}/status/{status}" for status in STATUSES))

    assert answer.code == 0
    assert answer.statuses == STATUSES
    assert [transfer["num_connects"] for transfer in answer.transfers] == [1] + [0] * (len(STATUSES) - 1)


@needs_httpbin
@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
def test_httpbin_methods(httpbin: Site, method: str) -> None:
    """Every method arrives, with a body and without."""
    answer = curl("--request", method, f"{httpbin.front}/anything?a=1&a=2&b", "--data", "x=1")

    assert answer.json["method"] == method
    assert answer.json["args"] == {"a": ["1", "2"], "b": ""}
    assert answer.json["form"] == {"x": "1"}
    assert curl("--request", method, f"{httpbin.front}/status/418").status == 418


HEAD = ("--head", "--output", "/dev/null")
"""curl would write the head where bodies go."""
SAME = [
    ["/image/png"],
    ["/image/jpeg"],
    ["/html"],
    ["/encoding/utf8"],
    ["/deny"],
    ["/no/such/page"],
    ["/bytes/50000?seed=1"],
    ["/stream-bytes/50000?seed=1&chunk_size=999"],
    ["/drip?numbytes=5&duration=0.05&delay=0"],
    ["/response-headers?X-A=1&X-A=2&X-B=&Content-Type=text/x-y"],
    ["/range/5000"],
    ["/range/5000", "--range", "10-19"],
    ["/range/5000", "--range", "-5"],
    ["/range/5000", "--range", "9000-9999"],
    ["/etag/abc", "--header", "If-None-Match: abc"],
    ["/etag/abc", "--header", "If-Match: other"],
    ["/basic-auth/a/b"],
    ["/basic-auth/a/b", "--user", "a:b"],
    ["/get", "--request", "OPTIONS", "--header", "Origin: http://a.example"],
    ["/html", *HEAD],
    ["/stream/3", *HEAD],
    ["/status/404", *HEAD],
]


@needs_httpbin
@pytest.mark.parametrize("case", SAME, ids=" ".join)
def test_httpbin_says_the_same(httpbin: Site, case: list[str]) -> None:
    """Status, header lines and every byte are what httpbin says itself: ranges, conditions, streams, HEAD."""
    direct, through = httpbin.both(*case)

    assert through.statuses == direct.statuses
    assert end_to_end(through) == end_to_end(direct)
    assert through.body == direct.body


@needs_httpbin
@pytest.mark.parametrize(
    ("coding", "decode"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)], ids=["gzip", "deflate"]
)
def test_httpbin_codings(httpbin: Site, coding: str, decode: Callable[[bytes], bytes]) -> None:
    """A compressed body arrives as it was, with its length and its coding, and curl can read it."""
    raw = curl(f"{httpbin.front}/{coding}")
    read = curl("--compressed", f"{httpbin.front}/{coding}")

    assert json.loads(decode(raw.body))["method"] == "GET"
    assert raw.values(b"content-encoding") == [coding.encode()]
    assert raw.values(b"content-length") == [b"%d" % len(raw.body)]
    assert b"accept-encoding" not in decode(raw.body).lower()
    assert read.code == 0
    assert read.json["method"] == "GET"


@needs_httpbin
@pytest.mark.parametrize("kind", ["redirect", "relative-redirect", "absolute-redirect"])
def test_httpbin_redirections(httpbin: Site, kind: str) -> None:
    """curl follows redirections and stays behind the proxy, whether they are absolute or not."""
    answer = curl("--location", f"{httpbin.front}/{kind}/3")

    assert answer.statuses == [302, 302, 302, 200]
    assert answer.transfers[0]["url_effective"] == f"{httpbin.front}/get"


@needs_httpbin
@pytest.mark.parametrize("status", [301, 303, 307, 308])
def test_httpbin_redirections_elsewhere(httpbin: Site, status: int) -> None:
    """A redirection to another host is left as it is, and the proxy does not follow it."""
    answer = curl(f"{httpbin.front}/redirect-to?status_code={status}&url=http://other.example/a%2520b")

    assert (answer.status, answer.values(b"location")) == (status, [b"http://other.example/a%20b"])


@needs_httpbin
def test_httpbin_cookies(httpbin: Site, tmp_path: Path) -> None:
    """Cookies are set in lines of their own, sent back below the mount, and deleted again; each user has its own."""
    jar, other = ("--location", "--cookie-jar", tmp_path / "jar"), ("--location", "--cookie", "")
    answer = curl(*jar, f"{httpbin.front}/cookies/set?a=1&b=2")

    assert answer.statuses == [302, 200]
    assert sorted(value for name, value in headers_of(answer.heads[0]) if name == b"set-cookie") == [
        b"a=1; Path=/p",
        b"b=2; Path=/p",
    ]
    assert answer.json == {"cookies": {"a": "1", "b": "2"}}
    assert curl(*other, f"{httpbin.front}/cookies").json == {"cookies": {}}
    assert curl(*jar, "--cookie", tmp_path / "jar", f"{httpbin.front}/cookies/delete?a").json == {"cookies": {"b": "2"}}


@needs_httpbin
def test_httpbin_streams(httpbin: Site) -> None:
    """A body of unknown length arrives line by line to its end."""
    answer = curl("--no-buffer", f"{httpbin.front}/stream/20")

    assert answer.code == 0
    assert answer.values(b"transfer-encoding") == [b"chunked"]
    assert [json.loads(line)["id"] for line in answer.body.splitlines()] == list(range(20))


@needs_httpbin
def test_httpbin_forms(httpbin: Site, tmp_path: Path) -> None:
    """Fields of a form, and files of any bytes, arrive as they were sent."""
    (tmp_path / "file").write_bytes(BINARY)
    simple = curl("--data", "a=1", "--data-urlencode", "b=ä&=;", f"{httpbin.front}/post")
    parts = curl("--form", "a=1", "--form", f"file=@{tmp_path / 'file'}", f"{httpbin.front}/post")

    assert simple.json["form"] == {"a": "1", "b": "ä&=;"}
    assert parts.json["form"] == {"a": "1"}
    assert base64.b64decode(parts.json["files"]["file"].partition(",")[2]) == BINARY


@needs_httpbin
@pytest.mark.parametrize("framing", ["known", "chunked"])
@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"], ids=["at-once", "continue"])
def test_httpbin_uploads(httpbin: Site, tmp_path: Path, framing: str, expect: str) -> None:
    """A file arrives whole, in the framing that it was sent in, with and without a wait for the 100."""
    (tmp_path / "file").write_bytes(BINARY)
    options = ["--header", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    answer = curl(*options, "--header", expect, "--upload-file", tmp_path / "file", f"{httpbin.front}/put")

    assert answer.code == 0
    assert base64.b64decode(answer.json["data"].partition(",")[2]) == BINARY
    assert answer.json["headers"].get("Transfer-Encoding") == ("chunked" if framing == "chunked" else None)
    assert answer.json["headers"].get("Content-Length") == (None if framing == "chunked" else str(len(BINARY)))


@needs_httpbin
def test_httpbin_is_told_who_asks(httpbin: Site) -> None:
    """httpbin, which believes X-Forwarded-For, is told the client's address and not what the client says of it."""
    answer = curl("--header", "X-Forwarded-For: 1.1.1.1", "--user-agent", "", f"{httpbin.front}/headers")
    told = answer.json["headers"]

    assert curl("--header", "X-Forwarded-For: 1.1.1.1", f"{httpbin.front}/ip").json == {"origin": "127.0.0.1"}
    assert told["X-Forwarded-Prefix"] == "/p"
    assert told["X-Forwarded-Host"] == httpbin.front.removeprefix("http://").removesuffix("/p")
    assert told["Host"] == httpbin.direct.removeprefix("http://")
    assert "User-Agent" not in told


# nginx.

NGINX = """
    root {folder}/www;
    etag on;
    keepalive_requests 3;
    client_max_body_size 16m;
    location = /moved {{ return 301 /hello.txt; }}
    location = /relative {{ absolute_redirect off; return 302 /hello.txt?a=b; }}
    location = /silent {{ return 444; }}
    location = /nothing {{ return 204; }}
    location /zipped/ {{ alias {folder}/www/; gzip on; gzip_proxied any; gzip_types *; gzip_min_length 1; gzip_vary on; }}
    location /put/ {{ alias {folder}/put/; dav_methods PUT DELETE; }}
    location /small/ {{ client_max_body_size 1k; dav_methods PUT; }}
"""


@pytest.fixture(scope="module")
def nginx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files that nginx serves."""
    folder = tmp_path_factory.mktemp("nginx")
    for name in ("www/inner", "put"):
        (folder / name).mkdir(parents=True)
    (folder / "www" / "hello.txt").write_bytes(TEXT)
    (folder / "www" / "large").write_bytes(LARGE)
    (folder / "www" / "empty").write_bytes(b"")
    (folder / "www" / "a b;c+d'").write_bytes(b"odd")
    return folder


@pytest.fixture(scope="module")
def nginx_url(nginx_folder: Path) -> Iterator[str]:
    """Run nginx once for all."""
    with serving_nginx(nginx_folder, NGINX.format(folder=nginx_folder)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=EVERY_SERVER)
def nginx(request: pytest.FixtureRequest, nginx_url: str) -> Iterator[Site]:
    """Put the proxy before it, under each server."""
    with proxied(nginx_url, request.param, door="mounted", rewrite_location=True) as port:
        yield Site(nginx_url, f"http://127.0.0.1:{port}/p", request.param)


FILES = [
    ["/hello.txt"],
    ["/empty"],
    ["/large"],
    ["/nothing"],
    ["/no/such/file"],
    ["/a%20b;c%2Bd'"],
    ["/hello.txt", *HEAD],
    ["/large", *HEAD],
    ["/large", "--range", "1000000-1999999"],
    ["/hello.txt", "--range", "-7"],
    ["/hello.txt", "--range", "99999-"],
    ["/hello.txt", "--header", "If-Modified-Since: Thu, 31 Dec 2099 00:00:00 GMT"],
    ["/hello.txt", "--header", "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"],
    ["/hello.txt", "--request", "POST"],
    ["/zipped/hello.txt", "--header", "Accept-Encoding: gzip"],
    ["/zipped/hello.txt"],
]


@needs_nginx
@pytest.mark.parametrize("case", FILES, ids=" ".join)
def test_nginx_says_the_same(nginx: Site, case: list[str]) -> None:
    """Status, header lines and every byte are what nginx says itself: files, ranges, conditions, gzip as it goes."""
    direct, through = nginx.both(*case)

    assert through.statuses == direct.statuses
    there, here = end_to_end(direct), end_to_end(through)
    if not direct.values(b"content-length"):  # granian counts a body that has arrived whole
        here = [line for line in here if line[0] != b"content-length"]
    assert here == there
    assert through.body == direct.body


@needs_nginx
def test_nginx_files_are_whole(nginx: Site) -> None:
    """A large file, and one compressed on its way, are what lies on the disk."""
    zipped = curl("--header", "Accept-Encoding: gzip", f"{nginx.front}/zipped/hello.txt")

    assert curl(f"{nginx.front}/large").body == LARGE
    assert gzip.decompress(zipped.body) == TEXT
    assert zipped.values(b"content-encoding") == [b"gzip"]


@needs_nginx
def test_nginx_several_ranges(nginx: Site) -> None:
    """An answer of several ranges arrives whole, with the boundary that its head names."""
    answer = curl("--range", "0-3,-5", f"{nginx.front}/hello.txt")
    boundary = answer.values(b"content-type")[0].partition(b"boundary=")[2]
    first, second = answer.body.removesuffix(b"\r\n--" + boundary + b"--\r\n").split(b"\r\n--" + boundary + b"\r\n")[1:]

    assert answer.status == 206
    assert first.endswith(b"\r\n\r\n" + TEXT[:4])
    assert second.endswith(b"\r\n\r\n" + TEXT[-5:])
    assert answer.values(b"content-length") == [b"%d" % len(answer.body)]


@needs_nginx
@pytest.mark.parametrize(
    ("path", "end"), [("/moved", "/hello.txt"), ("/relative", "/hello.txt?a=b"), ("/inner", "/inner/")]
)
def test_nginx_redirections(nginx: Site, path: str, end: str) -> None:
    """Redirections of nginx's own, to a folder's slash, too, lead to the same place behind the proxy."""
    answer = curl("--location", nginx.front + path)

    assert answer.transfers[0]["url_effective"] == nginx.front + end
    assert answer.transfers[0]["num_redirects"] == 1


@needs_nginx
def test_nginx_nothing_follows_a_head(nginx: Site) -> None:
    """Behind an answer to HEAD comes no body: curl, which would see one, keeps its connection."""
    answer = curl(*HEAD, *HEAD[1:], f"{nginx.front}/large", f"{nginx.front}/zipped/hello.txt", "--compressed")

    assert answer.statuses == [200, 200]
    assert [transfer["num_connects"] for transfer in answer.transfers] == [1, 0]


@needs_nginx
def test_nginx_closes_and_nobody_sees_it(nginx: Site) -> None:
    """Many requests in one connection of curl's succeed, though nginx closes its own after every third."""
    answer = curl(*[f"{nginx.front}/hello.txt"] * 20)

    assert answer.code == 0
    assert answer.statuses == [200] * 20
    assert answer.body == TEXT * 20
    assert sum(transfer["num_connects"] for transfer in answer.transfers) == 1


@needs_nginx
@pytest.mark.parametrize("framing", ["known", "chunked"])
def test_nginx_takes_large_uploads(nginx: Site, nginx_folder: Path, tmp_path: Path, framing: str) -> None:
    """curl, which sends so much only after a 100, gets one; and every byte lands on the disk."""
    (tmp_path / "file").write_bytes(LARGE)
    name = f"{nginx.server}-{framing}"
    options = ["--header", "Transfer-Encoding: chunked"] if framing == "chunked" else []
    # Without a 100, this long wait would end in curl's own limit.
    options += ["--header", "Expect: 100-continue", "--expect100-timeout", "300"]
    answer = curl(*options, "--upload-file", tmp_path / "file", f"{nginx.front}/put/{name}")

    assert (answer.code, answer.statuses) == (0, [100, 201])
    assert (nginx_folder / "put" / name).read_bytes() == LARGE
    assert curl("--request", "DELETE", f"{nginx.front}/put/{name}").status == 204
    assert not (nginx_folder / "put" / name).exists()


@needs_nginx
def test_nginx_refuses_a_large_upload_unseen(nginx: Site, tmp_path: Path) -> None:
    """What nginx refuses by its length is answered with 413 before curl has sent any of it."""
    if nginx.server == "hypercorn":
        pytest.skip("hypercorn itself answers every Expect with a 100, before the app is asked")
    (tmp_path / "file").write_bytes(LARGE)
    options = ["--header", "Expect: 100-continue", "--expect100-timeout", "300"]
    answer = curl(*options, "--upload-file", tmp_path / "file", f"{nginx.front}/small/x")

    assert answer.statuses == [413]
    assert answer.transfers[0]["size_upload"] == 0


@needs_nginx
def test_nginx_says_nothing(nginx: Site) -> None:
    """An upstream that hangs up without a word becomes a 502, and the next request succeeds."""
    answer = curl(f"{nginx.front}/silent", f"{nginx.front}/nothing")

    assert answer.code == 0
    assert answer.statuses == [502, 204]
    assert json.loads(answer.body) == {"detail": "Bad Gateway"}
