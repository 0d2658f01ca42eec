"""The program's counters, as `/metrics` shows them. One registry, made by app and handed to every room that counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

ACCEPT_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
DELIVERY_BUCKETS_S = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 600.0)


class Metrics:
    """Counters by their fixed names; scripts and dashboards of users rely on them."""

    def __init__(self) -> None:
        # `*_created` series would double the page and tell nothing.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
        self.registry = registry = CollectorRegistry()
        self.accepted = Counter("sendkit_accepted", "Messages accepted and durable", ["door"], registry=registry)
        self.delivered = Counter("sendkit_delivered", "Recipients whose server took the mail", registry=registry)
        self.deferred = Counter("sendkit_deferred", "Tries that will be repeated", registry=registry)
        self.failed = Counter("sendkit_failed", "Recipients that ended without delivery", registry=registry)
        self.errors = Counter("sendkit_errors", "Refusals and faults", ["name", "door"], registry=registry)
        self.refusals_unlogged = Counter(
            "sendkit_refusals_unlogged", "Refusals that are counted and not on the log", ["why"], registry=registry
        )
        self.inbound = Counter("sendkit_inbound", "Mails that came back, by result", ["kind"], registry=registry)
        self.findings = Gauge("sendkit_doctor_findings", "Of the doctor's last look", ["status"], registry=registry)
        self.queue = Gauge("sendkit_queue_recipients", "Unsettled recipients", ["state"], registry=registry)
        self.accept_seconds = Histogram(
            "sendkit_accept_seconds",
            "From the whole request to the commit",
            buckets=ACCEPT_BUCKETS_S,
            registry=registry,
        )
        self.delivery_seconds = Histogram(
            "sendkit_delivery_seconds",
            "From accept to the recipient's server",
            buckets=DELIVERY_BUCKETS_S,
            registry=registry,
        )
        self.wal_bytes = Gauge("sendkit_wal_bytes", "Size of SQLite's write-ahead log", registry=registry)
        self.free_disk_bytes = Gauge("sendkit_free_disk_bytes", "Free space at the data directory", registry=registry)
        self.commits = Gauge("sendkit_store_commits", "Transactions committed since the start", registry=registry)
        self.nodes = Gauge("sendkit_nodes", "Living processes of this installation that deliver", registry=registry)
        self.lease = Gauge(
            "sendkit_node_lease_holds", "1 while this process knows that its mail is its own", registry=registry
        )
        self.route_up = Gauge(
            "sendkit_route_up",
            "0 while mail with another route passes this one by",
            ["route", "to", "source"],
            registry=registry,
        )
        self.smtp_sessions = Gauge("sendkit_smtp_sessions", "Open SMTP sessions", registry=registry)
