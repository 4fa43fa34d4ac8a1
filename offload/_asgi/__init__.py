"""What stands around the requests of an ASGI application; `offload.asgi` is its public face."""
