"""`sendkit reports`: what receivers have reported of the domains."""

from __future__ import annotations

import json
from typing import Any

import click

from sendkit_server.cli.lines import AS_JSON, TEAM, acted, printable

SOURCES_SHOWN = 20


@click.command()
@click.argument("domain", required=False)
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="How far back.")
@TEAM
@AS_JSON
def reports(domain: str | None, days: int, team: str, as_json: bool) -> None:
    """What receivers report of DOMAIN, or of all domains: DMARC and TLS."""
    result = acted("reports.list", {"domain": domain, "days": days, "team": team})
    if as_json:
        click.echo(json.dumps(result["data"]))
        return
    if not result["data"]:
        about = f" about {domain}" if domain else ""
        click.echo(
            f"No reports{about} in the last {days} days; `sendkit domains dns DOMAIN` tells how to ask for them."
        )
    for summary in result["data"]:
        _print(summary)


def _print(summary: dict[str, Any]) -> None:
    click.echo(printable(f"{summary['domain']}, as reported by {', '.join(summary['organizations'][:10])}"))
    click.echo(f"  {summary['begins_at']} to {summary['ends_at']} UTC")
    if summary["reports"]:
        _print_dmarc(summary)
    if summary["tls_reports"]:
        _print_tls(summary)
    click.echo()


def _print_dmarc(summary: dict[str, Any]) -> None:
    mails = summary["mails"]
    share = f" ({summary['passed'] / mails:.1%})" if mails else ""
    click.echo(
        f"  DMARC: {summary['reports']} reports, {mails} mails, {summary['passed']} passed{share},"
        f" {summary['refused']} quarantined or rejected"
    )
    click.echo(f"    {'mails':>9} {'passed':>9} {'DKIM':>9} {'SPF':>9}  source")
    for source in summary["sources"][:SOURCES_SHOWN]:
        name = f" {source['name']}" if source["name"] else ""
        figures = f"{source['mails']:>9} {source['passed']:>9} {source['dkim']:>9} {source['spf']:>9}"
        click.echo(printable(f"    {figures}  {source['address'] or 'others'}{name}"))
    left = len(summary["sources"]) - SOURCES_SHOWN
    if left > 0:
        click.echo(f"    and {left} more sources; --json has all")


def _print_tls(summary: dict[str, Any]) -> None:
    click.echo(
        f"  TLS: {summary['tls_reports']} reports, {summary['tls_succeeded']} sessions succeeded,"
        f" {summary['tls_failed']} failed"
    )
    for failure in summary["tls_failures"][:SOURCES_SHOWN]:
        words = f" {failure['reason']}" if failure["reason"] else ""
        click.echo(
            printable(f"    {failure['sessions']:>9}  {failure['result']} at {failure['mx'] or '-'}")
            + printable(f"{words} ({failure['organization']})")
        )
