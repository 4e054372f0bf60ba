"""Settings: what they mean, where they come from, and what is said when they are wrong."""

import ast
import json
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from pydantic import ValidationError

import fastapi_httpx_pool.settings as settings_module
from fastapi_httpx_pool import ClientSettings, LimitSettings, TimeoutSettings, TLSSettings
from tests.support.families import FAMILIES, module_of


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # there is no .env here unless a test writes one


class TestTimeouts:
    """``TimeoutSettings`` means what ``httpx.Timeout`` means."""

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({}, {"timeout": 5.0}),
            ({"default": 5.0, "read": 15.0}, {"timeout": 5.0, "read": 15.0}),
            ({"default": None}, {"timeout": None}),
            ({"default": 3, "pool": None, "connect": 0}, {"timeout": 3, "pool": None, "connect": 0}),
        ],
    )
    def test_means_what_httpx_means(self, family: Any, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """The same arguments give the same Timeout, in both families."""
        expected = module_of(family).Timeout(**theirs)

        assert expected == TimeoutSettings(**ours).as_timeout(family)

    def test_number(self) -> None:
        """A number is a default for all four, as in httpx."""
        assert TimeoutSettings(default=7.0) == ClientSettings(timeout=7).timeout

    def test_none(self) -> None:
        """None is no limit."""
        assert httpx.Timeout(None) == ClientSettings(timeout=None).timeout.as_timeout()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_family_object(self, family: Any) -> None:
        """A family's own Timeout is accepted as it is."""
        timeout = module_of(family).Timeout(5.0, read=15.0)

        assert timeout == ClientSettings(timeout=timeout).timeout.as_timeout(family)

    def test_settings_object(self) -> None:
        """Settings pass through unchanged, with the total that httpx does not know."""
        settings = TimeoutSettings(total=60)

        assert settings == ClientSettings(timeout=settings).timeout

    @pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "soon"])
    def test_impossible(self, bad: Any) -> None:
        """Negative, endless and wordy limits are refused by name."""
        with pytest.raises(ValidationError, match="read"):
            TimeoutSettings(read=bad)

    def test_not_a_timeout(self) -> None:
        """Something else altogether is refused."""
        with pytest.raises(ValidationError, match="TimeoutSettings"):
            TimeoutSettings.model_validate([1, 2])


class TestLimits:
    """``LimitSettings`` means what ``httpx.Limits`` means."""

    @pytest.mark.parametrize("family", FAMILIES)
    def test_defaults_are_httpxs(self, family: Any) -> None:
        """The defaults are those of an AsyncClient."""
        module = module_of(family)
        defaults = module.Limits(max_connections=100, max_keepalive_connections=20)

        assert defaults == LimitSettings().as_limits(family)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_family_object(self, family: Any) -> None:
        """A family's own Limits are accepted as they are."""
        limits = module_of(family).Limits(max_connections=10, max_keepalive_connections=5)

        assert limits == ClientSettings(limits=limits).limits.as_limits(family)

    def test_keepalive_above_connections(self) -> None:
        """More idle connections than connections is a contradiction, and said to be one."""
        with pytest.raises(ValidationError, match=r"max_keepalive_connections \(10\) is above max_connections \(5\)"):
            LimitSettings(max_connections=5, max_keepalive_connections=10)

    def test_default_keepalive_is_no_contradiction(self) -> None:
        """Lowering the connections alone is enough."""
        assert LimitSettings(max_connections=5).max_connections == 5

    @pytest.mark.parametrize("field", ["max_connections", "max_connections_per_host", "connection_lifetime"])
    def test_zero_is_refused(self, field: str) -> None:
        """A pool of none could serve nobody."""
        with pytest.raises(ValidationError, match=field):
            LimitSettings.model_validate({field: 0})

    def test_frozen(self) -> None:
        """Settings do not change under a client that was made from them."""
        with pytest.raises(ValidationError, match="frozen"):
            LimitSettings().max_connections = 1  # type: ignore[misc] # what the test is about


class TestTLS:
    """``TLSSettings`` makes contexts, and refuses files that cannot make one."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        """Make an authority and a certificate."""
        authority = trustme.CA()
        certificate = authority.issue_cert("client@example.org")
        paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "both")}
        authority.cert_pem.write_to_path(paths["ca"])
        certificate.cert_chain_pems[0].write_to_path(paths["cert"])
        certificate.private_key_pem.write_to_path(paths["key"])
        certificate.private_key_and_cert_chain_pem.write_to_path(paths["both"])
        return paths

    @pytest.mark.parametrize("family", FAMILIES)
    def test_default_verifies(self, family: Any) -> None:
        """The family's own trust is the default."""
        context = TLSSettings().as_ssl_context(family)

        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname

    @pytest.mark.parametrize("family", FAMILIES)
    def test_off_must_be_spelled_out(self, family: Any) -> None:
        """Only verify=False switches verification off."""
        assert TLSSettings(verify=False).as_ssl_context(family).verify_mode is ssl.CERT_NONE

    def test_own_authority(self, files: dict[str, Path]) -> None:
        """A private authority stands in the place of the public ones."""
        context = TLSSettings(ca_file=files["ca"]).as_ssl_context()

        assert [authority["subject"] for authority in context.get_ca_certs()]
        assert len(context.get_ca_certs()) == 1

    def test_own_certificate(self, files: dict[str, Path]) -> None:
        """A client certificate is loaded from one file or from two."""
        TLSSettings(cert_file=files["both"]).as_ssl_context()
        TLSSettings(cert_file=files["cert"], key_file=files["key"]).as_ssl_context()

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"ca_file": "missing.pem"}, "ca_file"),
            ({"ca_dir": "missing"}, "ca_dir"),
            ({"cert_file": "cert"}, "cannot load"),
            ({"ca_file": "key"}, "cannot load"),
            ({"key_file": "key"}, "need cert_file"),
            ({"verify": False, "ca_file": "ca"}, "would not be used"),
        ],
    )
    def test_unusable(self, files: dict[str, Path], arguments: dict[str, Any], text: str) -> None:
        """A file that is missing, unreadable, of another kind or of no use is refused at once."""
        values = {name: files.get(str(value), value) for name, value in arguments.items()}

        with pytest.raises(ValidationError, match=text):
            TLSSettings(**values)

    def test_password_stays_hidden(self, files: dict[str, Path]) -> None:
        """Neither an error nor a repr shows the key's password."""
        with pytest.raises(ValidationError) as raised:
            ClientSettings(tls={"key_file": files["key"], "key_password": "hunter2"})

        settings = TLSSettings.model_validate({"cert_file": files["both"], "key_password": "hunter2"})
        assert "hunter2" not in str(raised.value)
        assert "hunter2" not in repr(settings)


class TestEnvironment:
    """``ClientSettings`` reads the environment and ``.env``."""

    def test_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Parts are reached with two underscores."""
        monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONNECTIONS", "50")
        monkeypatch.setenv("HTTPX_POOL_TIMEOUT__READ", "15")
        monkeypatch.setenv("HTTPX_POOL_FOLLOW_REDIRECTS", "true")

        settings = ClientSettings()

        assert settings.limits.max_connections == 50
        assert settings.timeout == TimeoutSettings(read=15)
        assert settings.follow_redirects

    @pytest.mark.parametrize("text", ["none", "None", "null"])
    def test_none(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment can say "no limit" too."""
        monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONNECTIONS", text)

        assert ClientSettings().limits.max_connections is None

    def test_code_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the code says stands, as a whole."""
        monkeypatch.setenv("HTTPX_POOL_DRAIN", "3")
        monkeypatch.setenv("HTTPX_POOL_LIMITS__KEEPALIVE_EXPIRY", "3")

        settings = ClientSettings(drain=1, limits=LimitSettings(max_connections=5))

        assert settings.drain == 1
        assert settings.limits == LimitSettings(max_connections=5)

    def test_headers_in_code_stand_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variables' headers are not sent along with the code's: they may be another upstream's credentials."""
        monkeypatch.setenv("HTTPX_POOL_HEADERS", '{"Authorization": "Bearer other"}')

        assert ClientSettings(headers={"X-Own": "1"}).headers == {"X-Own": "1"}

    def test_dotenv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A .env file is read, below the environment; other programs' variables in it do no harm."""
        Path(".env").write_text("OTHER=1\nHTTPX_POOL_DRAIN=3\nHTTPX_POOL_RETRIES=1\n", encoding="utf-8")
        monkeypatch.setenv("HTTPX_POOL_RETRIES", "2")

        assert ClientSettings().drain == 3
        assert ClientSettings().retries == 2

    def test_prefix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second client has variables of its own, and sees none of the first one's."""
        monkeypatch.setenv("HTTPX_POOL_BASE_URL", "https://first.example")
        monkeypatch.setenv("GITHUB_BASE_URL", "https://api.github.example")

        assert ClientSettings(_env_prefix="GITHUB_").base_url == "https://api.github.example"

    def test_parts_do_not_read_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A part that is built in code is what the code says."""
        monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONNECTIONS", "50")
        monkeypatch.setenv("MAX_CONNECTIONS", "51")

        assert LimitSettings().max_connections == 100


class TestAllowedAddresses:
    """Where a client may connect to."""

    @pytest.mark.parametrize(
        ("given", "meant"),
        [
            ("any", "any"),
            ("public", "public"),
            (["public"], ("public",)),
            ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
            (ip_network("fd00::/8"), (ip_network("fd00::/8"),)),
            (["10.1.2.3", "public", "fd00::/8"], (ip_network("10.1.2.3/32"), "public", ip_network("fd00::/8"))),
            ({ip_network("10.0.0.0/8")}, (ip_network("10.0.0.0/8"),)),
        ],
    )
    def test_forms(self, given: Any, meant: Any) -> None:
        """A word, a network, or several of both, as text or as ``ipaddress``'s objects."""
        assert ClientSettings(allowed_addresses=given).allowed_addresses == meant

    def test_default(self) -> None:
        """Nothing is checked unless it is asked for."""
        assert ClientSettings().allowed_addresses == "any"

    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("public", "public"),
            ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
            ('["public", "10.0.0.0/8"]', ("public", ip_network("10.0.0.0/8"))),
        ],
    )
    def test_environment(self, text: str, meant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable has the word, the network, or a JSON list."""
        monkeypatch.setenv("HTTPX_POOL_ALLOWED_ADDRESSES", text)

        assert ClientSettings().allowed_addresses == meant

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("privat", "'privat' is not what addresses can be allowed by"),
            (["any"], "'any' is not what"),
            ("public, 10.0.0.0/8", "such as .'public', '10.0.0.0/8'."),
            (["10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
            ([10], "10 is not what"),
            (None, "None is not what"),
            ([], "an empty list allows no address at all"),
        ],
    )
    def test_impossible(self, given: Any, told: str) -> None:
        """What is no network is told, with what would be one and with the variable."""
        with pytest.raises(ValidationError, match=rf"{told}.*HTTPX_POOL_ALLOWED_ADDRESSES"):
            ClientSettings(allowed_addresses=given)

    @pytest.mark.parametrize(
        ("unchecked", "told"),
        [
            ({"http2": True}, "http2 exclude"),
            ({"proxy": "http://proxy.example:3128"}, "proxy exclude"),
            ({"engine": "httpcore"}, "engine 'httpcore' exclude"),
            ({"uds": "/socket"}, "uds exclude"),
            ({"http2": True, "uds": "/socket"}, "http2 and uds exclude"),
        ],
    )
    @pytest.mark.parametrize("allowed", ["public", ["10.0.0.0/8"]])
    def test_what_cannot_be_checked(self, unchecked: Any, told: str, allowed: Any) -> None:
        """What another one would connect to, or no address has, cannot be promised to be checked."""
        with pytest.raises(ValidationError, match=f"allowed_addresses and {told} each other"):
            ClientSettings(allowed_addresses=allowed, **unchecked)
        assert ClientSettings(allowed_addresses="any", **unchecked).allowed_addresses == "any"


class TestSignature:
    """Editors and type checkers know every setting."""

    def test_complete(self) -> None:
        """The signature for type checkers has exactly the settings, and two of pydantic-settings' switches."""
        source = Path(settings_module.__file__).read_text(encoding="utf-8")
        signatures = [
            [argument.arg for argument in node.args.kwonlyargs]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef) and node.name == "__init__" and node.args.kwonlyargs
        ]

        assert signatures == [[*ClientSettings.model_fields, "_env_prefix", "_env_file"]]


class TestErrors:
    """An error names the field, the value and the variable."""

    def test_value_and_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All three stand in the message."""
        monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONNECTIONS", "-3")

        with pytest.raises(ValidationError) as raised:
            ClientSettings()

        assert "limits.max_connections" in str(raised.value)
        assert "'-3'" in str(raised.value)
        assert "HTTPX_POOL_LIMITS__MAX_CONNECTIONS" in str(raised.value)

    def test_other_prefix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable is named with the prefix in force."""
        monkeypatch.setenv("GITHUB_DRAIN", "soon")

        with pytest.raises(ValidationError, match="GITHUB_DRAIN"):
            ClientSettings(_env_prefix="GITHUB_")

    def test_misspelt_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A misspelt part is not passed over."""
        monkeypatch.setenv("HTTPX_POOL_LIMITS__MAX_CONECTIONS", "3")

        with pytest.raises(ValidationError, match="HTTPX_POOL_LIMITS__MAX_CONECTIONS"):
            ClientSettings()

    def test_misspelt_argument(self) -> None:
        """A misspelt argument is not passed over, and those that exist are told."""
        with pytest.raises(
            ValidationError, match=r"limts\s+ClientSettings has no setting of this name; it has: family"
        ):
            ClientSettings(limts=3)  # type: ignore[call-arg] # what the test is about

    @pytest.mark.parametrize(("field", "text"), [("HEADERS", "{bad"), ("TIMEOUT", "bad")])
    def test_not_json(self, field: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What pydantic-settings cannot read is told with the variable's name."""
        monkeypatch.setenv(f"HTTPX_POOL_{field}", text)

        with pytest.raises(ValidationError, match=f"HTTPX_POOL_{field}"):
            ClientSettings()

    @pytest.mark.parametrize("url", ["api.example", "ftp://api.example", "https://"])
    def test_base_url(self, url: str) -> None:
        """A base URL is absolute."""
        with pytest.raises(ValidationError, match="base_url"):
            ClientSettings(base_url=url)

    @pytest.mark.parametrize("spoken_otherwise", [{"http2": True}, {"proxy": "http://proxy.example:3128"}])
    def test_what_the_native_engine_does_not_speak(self, spoken_otherwise: dict[str, Any]) -> None:
        """Asked for by name, the native engine refuses what it would have to leave to httpcore."""
        with pytest.raises(ValidationError, match=r"HTTP/1\.1 without a forward proxy; leave it at 'auto'"):
            ClientSettings(engine="native", **spoken_otherwise)

    def test_proxy_scheme(self) -> None:
        """A proxy of a kind that neither family speaks is refused."""
        with pytest.raises(ValidationError, match="socks5h"):
            ClientSettings(proxy="ftp://proxy.example")

    @pytest.mark.parametrize("headers", [{"a b": "x"}, {"a": "x\r\ny: z"}])
    def test_headers(self, headers: dict[str, str]) -> None:
        """Names and values that would break a request are refused."""
        with pytest.raises(ValidationError, match="headers"):
            ClientSettings(headers=headers)


class TestSecrets:
    """Secrets do not show in a repr, nor in an error."""

    def test_repr(self) -> None:
        """Header values and credentials in URLs are starred out; the rest can be read."""
        settings = ClientSettings(
            headers={"Authorization": "Bearer s3cret"},
            proxy="http://user:s3cret@proxy.example:3128",
            base_url="https://user:s3cret@api.example",
        )

        assert "s3cret" not in repr(settings)
        assert "s3cret" not in str(settings)
        assert "'Authorization'" in repr(settings)
        assert "proxy.example:3128" in repr(settings)
        assert settings.headers["Authorization"] == "Bearer s3cret"

    @pytest.mark.parametrize(
        "arguments",
        [
            {"header": {"Authorization": "s3cret"}},
            {"tls": {"key_pasword": "s3cret"}},
            {"uds": "/socket", "proxy": "http://user:s3cret@proxy.example"},
        ],
        ids=["argument", "part", "both"],
    )
    def test_misspelt_and_contradictory(self, arguments: Any) -> None:
        """An error about a misspelt or contradictory setting does not show its value either."""
        with pytest.raises(ValidationError) as raised:
            ClientSettings(**arguments)

        assert "s3cret" not in str(raised.value)

    def test_at_sign_in_a_password(self) -> None:
        """User information ends at the last @, for httpx too."""
        settings = ClientSettings(proxy="http://user:s3@cret@proxy.example:3128")

        assert "cret" not in repr(settings)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("PROXY", "ftp://user:s3cret@proxy"), ("HEADERS", json.dumps({"a b": "s3cret"})), ("HEADERS", "{s3cret")],
    )
    def test_errors(self, field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error names the variable and keeps the value to itself."""
        monkeypatch.setenv(f"HTTPX_POOL_{field}", value)

        with pytest.raises(ValidationError) as raised:
            ClientSettings()

        assert "s3cret" not in str(raised.value)
        assert f"HTTPX_POOL_{field}" in str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__
