"""Bytes reach the recipient's server: routes, lanes, connections, and what became of each recipient."""

from sendkit_server.deliver.deliverer import Deliverer, DeliveryStore
from sendkit_server.deliver.office import LaneView
from sendkit_server.deliver.route import Capture, Direct, Route, Smarthost
from sendkit_server.deliver.routing import Routing, chain_of, parse_routing
from sendkit_server.deliver.settings import DeliverySettings, Timeouts
from sendkit_server.net.probe import ProbeResult, probe

__all__ = [
    "Capture",
    "Deliverer",
    "DeliverySettings",
    "DeliveryStore",
    "Direct",
    "LaneView",
    "ProbeResult",
    "Route",
    "Routing",
    "Smarthost",
    "Timeouts",
    "chain_of",
    "parse_routing",
    "probe",
]
