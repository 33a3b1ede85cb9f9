"""What watches jobs on Kubernetes: where Prometheus reads, when it alerts, and a Grafana board."""

from __future__ import annotations

from typing import Any

from batchrec.cluster.pods import JOB_LABEL

_NAME = "batchrec"
_SCRAPE_EVERY = "30s"
_WAITING = 'ray_batchrec_shards{state=~"pending|in_flight"}'
_FAILED = 'ray_batchrec_images_total{status!="ok"}'
_MAX_FAILURE_SHARE = 0.05

_ALERTS = (
    (
        "BatchrecStalled",
        f"(sum by (job_id) (max by (job_id, state) ({_WAITING})) > 0)"
        " unless on (job_id) (sum by (job_id) (increase(ray_batchrec_images_total[5m])) > 0)",
        "10m",  # of no image in five minutes: fifteen
        "critical",
        "{{ $labels.job_id }} has shards to do and finished no image for 15 minutes",
        "Read the coordinator's log: it says what it waits for.",
    ),
    (
        "BatchrecFailing",
        f"sum by (job_id) (increase({_FAILED}[30m])) / sum by (job_id) (increase(ray_batchrec_images_total[30m]))"
        f" > {_MAX_FAILURE_SHARE}",
        "10m",
        "warning",
        "{{ $labels.job_id }} fails {{ $value | humanizePercentage }} of its images",
        "See which code they have: `batchrec errors OUT`.",
    ),
    (
        "BatchrecShortOfWorkers",
        'max by (job_id) (ray_batchrec_workers{state="ready"})'
        ' < max by (job_id) (ray_batchrec_workers{state="wanted"})',
        "15m",
        "warning",
        "{{ $labels.job_id }} has {{ $value }} workers and wants more",
        "Look at pending pods, quota, and spot nodes that were taken back.",
    ),
)

#: Title, unit, expression and legend.
_PANELS = (
    ("Images", "ops", "sum by (status) (rate(ray_batchrec_images_total{JOB}[5m]))", "{{status}}"),
    ("Failures by code", "ops", 'sum by (code) (rate(ray_batchrec_images_total{status!="ok",JOB}[5m]))', "{{code}}"),
    ("Shards", "short", "max by (state) (ray_batchrec_shards{JOB})", "{{state}}"),
    ("Workers", "short", "max by (state) (ray_batchrec_workers{JOB})", "{{state}}"),
    ("Bytes", "Bps", "sum by (direction) (rate(ray_batchrec_bytes_total{JOB}[5m]))", "{{direction}}"),
    ("Busy in stages", "short", "sum by (stage) (rate(ray_batchrec_stage_seconds_total{JOB}[5m]))", "{{stage}}"),
    ("Queues, share filled", "percentunit", "avg by (queue) (ray_batchrec_queue_fill{JOB})", "{{queue}}"),
    ("Attempts in an hour", "short", "sum by (reason) (increase(ray_batchrec_attempts_total{JOB}[1h]))", "{{reason}}"),
)


def pod_monitor() -> dict[str, Any]:
    """Return where Prometheus reads: every pod of every job of the namespace."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": _NAME},
        "spec": {
            "selector": {"matchExpressions": [{"key": JOB_LABEL, "operator": "Exists"}]},
            "podMetricsEndpoints": [{"port": "metrics", "interval": _SCRAPE_EVERY}],
            "podTargetLabels": [JOB_LABEL, "ray.io/cluster", "ray.io/node-type"],
        },
    }


def alert_rules() -> dict[str, Any]:
    """Return when Prometheus alerts."""
    rules = [
        {
            "alert": name,
            "expr": expression,
            "for": lasting,
            "labels": {"severity": severity},
            "annotations": {"summary": summary, "description": advice},
        }
        for name, expression, lasting, severity, summary, advice in _ALERTS
    ]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": _NAME},
        "spec": {"groups": [{"name": _NAME, "rules": rules}]},
    }


def board() -> dict[str, Any]:
    """Return a Grafana board, to be imported as it is."""
    return {
        "uid": _NAME,
        "title": "batchrec",
        "tags": [_NAME, "ray"],
        "schemaVersion": 39,
        "refresh": _SCRAPE_EVERY,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_data_source_variable(), _job_variable()]},
        "panels": [_panel(position, *panel) for position, panel in enumerate(_PANELS)],
    }


def _data_source_variable() -> dict[str, Any]:
    return {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}


def _job_variable() -> dict[str, Any]:
    return {
        "name": "job_id",
        "label": "Job",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$source"},
        "query": "label_values(ray_batchrec_shards, job_id)",
        "refresh": 2,
        "sort": 1,
    }


def _panel(position: int, title: str, unit: str, expression: str, legend: str) -> dict[str, Any]:
    width, height = 12, 8
    source = {"type": "prometheus", "uid": "$source"}
    drawn = {
        "refId": "A",
        "datasource": source,
        "expr": expression.replace("JOB", 'job_id="$job_id"'),
        "legendFormat": legend,
    }
    return {
        "id": position + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": width * (position % 2), "y": height * (position // 2), "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [drawn],
    }
