"""What the WWSF counts, for Prometheus."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from imskit.config.model import setting

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True)
class MetricsConfig:
    """Metrics over plain HTTP at /metrics, for a collector on the inner network."""

    address: str = setting("IP address to listen on; not one that users reach", "127.0.0.1")
    port: int = setting("port to listen on", 9464)


class Metrics:
    """Counters of one server, in a registry of their own.  No label holds an identity."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.log_ins = Counter(
            "wwsf_log_ins", "Log-ins by kind and outcome", ["kind", "outcome"], registry=self.registry
        )
        self.requests = Counter("wwsf_requests", "HTTP answers by status", ["status"], registry=self.registry)
        self.seconds = Histogram("wwsf_request_seconds", "Time to answer a request, seconds", registry=self.registry)
        self.tokens = Counter("wwsf_tokens", "Tokens issued", registry=self.registry)
        self.introspections = Counter(
            "wwsf_introspections", "Introspections by outcome", ["outcome"], registry=self.registry
        )
        self.sessions = Gauge("wwsf_sessions", "Sessions that are open", registry=self.registry)
        self.range_used = Gauge("wwsf_range_used", "Identities of a range in use", ["range"], registry=self.registry)
        self.range_size = Gauge("wwsf_range_size", "Identities of a range", ["range"], registry=self.registry)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self.registry)
