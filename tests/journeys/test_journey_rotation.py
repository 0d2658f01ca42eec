"""`sendkit secrets rotate` with the real program: refused while it runs, and afterwards all is as before."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from server import Server
from sinks import SmtpSink


async def test_after_a_rotation_mail_is_signed_with_the_same_key_and_bounces_of_before_are_known(
    make_server: Callable[..., Server], sink: SmtpSink
) -> None:
    server = await make_server().start()
    key = await server.live_key()
    sent = await server.send(key)
    await server.settled(key, sent, "delivered")
    local = sink.mails[0].return_path.partition("@")[0]
    published = (await server.command("domains", "dns", "sender.test"))[1]
    status, _, err = await server.command("secrets", "rotate")
    assert status == 1 and "is in use by another process (sendkit serve" in err
    await server.stop()
    status, out, err = await server.command("secrets", "rotate")
    assert status == 0, err
    if "SENDKIT_SECRET_KEY" in server.settings:
        assert "Set SENDKIT_SECRET_KEY" in err and out.strip() not in err
        status, _, told = await server.command("domains", "list")
        assert status == 1 and "is not the one this database was made with" in told
        server.settings["SENDKIT_SECRET_KEY"] = out.strip()
    else:
        assert out.startswith("Done: 2 sealed values")
    await server.start()
    assert (await server.command("domains", "dns", "sender.test"))[1] == published
    await server.settled(key, await server.send(key), "delivered")
    assert "DKIM-Signature" in sink.mails[-1].raw.decode()
    report = (
        "From: <>\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.there.test\r\n\r\n"
        "Final-Recipient: rfc822; ann@there.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
    )
    taken = await server.act("inbound.take", locals=[local], raw=base64.b64encode(report.encode()).decode())
    assert taken["result"] == "bounced"
    assert (await server.email(key, sent))["status"] == "bounced"
    assert "secrets.rotate" in [row["action"] for row in (await server.act("audit.list"))["data"]]


@pytest.mark.engine("sqlite")
async def test_a_wrong_secret_key_refuses_the_start(make_server: Callable[..., Server]) -> None:
    server = await make_server().start()
    await server.stop()
    (server.data_dir / "secret-key").write_text("another one\n")
    with pytest.raises(AssertionError, match="is not the one this database was made with"):
        await server.start()
