"""Whom the pods of a job may talk to, and who may talk to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchrec.cluster.pods import JOB_LABEL

DASHBOARD_PORT, METRICS_PORT = 8265, 8080
_DNS_PORT, _HTTPS_PORT, _API_SERVER_PORT = 53, 443, 6443
#: Where clouds hand a machine's own credentials to whoever asks, from inside it.
METADATA_ADDRESSES = ("169.254.169.254/32", "fd00:ec2::254/128")


def network_policy(job: str, *, store_port: int | None = None, calls_kubernetes: bool = False) -> dict[str, Any]:
    """Return the policy of one job's pods.

    Args:
        job: Name of the job.
        store_port: Port of an object store that is not reached over 443.
        calls_kubernetes: Whether Ray's autoscaler runs in the head and must reach Kubernetes.
    """
    own = {"podSelector": {"matchLabels": {JOB_LABEL: job}}}
    ports = [_HTTPS_PORT, *([store_port] if store_port else []), *([_API_SERVER_PORT] if calls_kubernetes else [])]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job, "labels": {JOB_LABEL: job}},
        "spec": {
            **own,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [own]},
                {"from": [_anywhere("app.kubernetes.io/component", "kuberay-operator")], "ports": _tcp(DASHBOARD_PORT)},
                {"from": [_anywhere("app.kubernetes.io/name", "prometheus")], "ports": _tcp(METRICS_PORT)},
            ],
            "egress": [
                {"to": [own]},
                {"to": _world(), "ports": [{"protocol": "UDP", "port": _DNS_PORT}, *_tcp(_DNS_PORT)]},
                {"to": _world(), "ports": _tcp(*dict.fromkeys(ports))},
            ],
        },
    }


def _anywhere(label: str, value: str) -> dict[str, Any]:
    # Operators are installed into a namespace of their owner's choice.
    return {"namespaceSelector": {}, "podSelector": {"matchLabels": {label: value}}}


def _world() -> Sequence[dict[str, Any]]:
    ipv4, ipv6 = METADATA_ADDRESSES
    # Some network plug-ins do not count pods of the cluster among addresses.
    return [
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": [ipv4]}},
        {"ipBlock": {"cidr": "::/0", "except": [ipv6]}},
    ]


def _tcp(*ports: int) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]
