"""Device profiles shipped as JSON; read through `importlib.resources`."""
