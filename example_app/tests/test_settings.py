"""The settings of the example."""

import pytest
from pydantic import ValidationError

from example_app.settings import NOBODY, ExampleSettings, SharedClientSettings
from example_app.tests.support import bare


def test_defaults_are_those_of_the_recipes() -> None:
    """Limits of 5 and 10, timeouts of 5 s and 15 s, the embedded upstream, and five sites."""
    settings = ExampleSettings(**bare())
    client = settings.shared_client()
    assert (client.limits.max_keepalive_connections, client.limits.max_connections) == (5, 10)
    assert (client.timeout.connect, client.timeout.read) == (5.0, 15.0)
    assert client.base_url == "http://127.0.0.1:8001"
    assert settings.embedded
    assert len(settings.sites) == 5
    assert settings.sites[-1] == NOBODY


def test_environment_changes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports, sites and the clients' settings come from variables of the example's own."""
    monkeypatch.setenv("EXAMPLE_PORT", "8080")
    monkeypatch.setenv("EXAMPLE_SITES", '["/a", "https://example.org/"]')
    monkeypatch.setenv("EXAMPLE_CLIENT_TIMEOUT__READ", "30")
    monkeypatch.setenv("EXAMPLE_CLIENT_LIMITS__MAX_CONNECTIONS", "20")
    monkeypatch.setenv("EXAMPLE_SLOW_CLIENT_DRAIN", "1")
    monkeypatch.setenv("EXAMPLE_SITE_CLIENT_LIMITS__MAX_CONNECTIONS", "30")
    settings = ExampleSettings(**bare())
    assert settings.port == 8080
    assert settings.sites == ("/a", "https://example.org/")
    assert settings.shared_client().timeout.read == 30
    assert settings.shared_client().timeout.connect == 5
    assert settings.shared_client().limits.max_connections == 20
    assert settings.shared_client().limits.max_keepalive_connections == 5
    assert settings.slow_client().drain == 1
    assert settings.site_client().limits.max_connections == 30
    assert settings.site_client().timeout.pool == 2


def test_real_site_takes_the_place_of_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real site is read at its first page, and through the environment's forward proxy."""
    monkeypatch.setenv("EXAMPLE_UPSTREAM_URL", "https://example.org")
    settings = ExampleSettings(**bare())
    assert not settings.embedded
    assert settings.page == "/"
    assert set(settings.sites) == {"/", NOBODY}
    assert settings.shared_client().base_url == "https://example.org"
    assert settings.shared_client().trust_env


def test_pages_of_a_real_site_can_be_chosen() -> None:
    """What is set counts, also where a real site has other defaults."""
    settings = ExampleSettings(**bare(), upstream_url="https://example.org", page="/news", sites=("/a",))
    assert (settings.page, settings.sites) == ("/news", ("/a",))


def test_forward_proxy_is_not_used_for_the_embedded_upstream() -> None:
    """No proxy of the environment could reach this machine's own upstream."""
    assert not ExampleSettings(**bare()).shared_client().trust_env


def test_impossible_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value of a client is told with its variable."""
    monkeypatch.setenv("EXAMPLE_CLIENT_TIMEOUT__READ", "soon")
    with pytest.raises(ValidationError, match="EXAMPLE_CLIENT_TIMEOUT__READ"):
        SharedClientSettings()


@pytest.mark.parametrize("url", ["example.org", "ftp://example.org", "http://"])
def test_upstream_must_be_a_url(url: str) -> None:
    """What no request can be sent to is refused at once."""
    with pytest.raises(ValidationError, match="upstream_url"):
        ExampleSettings(**bare(), upstream_url=url)
