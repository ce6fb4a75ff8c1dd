"""LocalStack without Docker, on loopback only: its Twisted server ignores the host of GATEWAY_LISTEN.

Run with `python -P`, so that no module of this folder can hide one that LocalStack imports.
"""
from twisted.internet import endpoints

_Endpoint = endpoints.TCP4ServerEndpoint


class _Loopback(_Endpoint):
    def __init__(self, reactor, port, backlog=128, interface="127.0.0.1"):
        super().__init__(reactor, port, backlog=backlog, interface=interface)


endpoints.TCP4ServerEndpoint = _Loopback

from localstack.runtime.main import main  # noqa: E402  (after the patch)

main()
