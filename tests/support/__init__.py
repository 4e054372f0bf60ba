"""What the tests are made with: a scripted upstream, a raw client, and a server around an app."""
