"""The air of the bench: virtual Bluetooth controllers and the link between them (``python -m hil.radio --dir RUN``).

Whoever connects to ``RUN/hci.sock`` plugs in a controller of their own and speaks HCI (H4) with it; closing the socket
pulls it out, and its peers notice after the supervision timeout, as with a dead battery. Knows no host and no GATT.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from bumble import core, hci, ll
from bumble.controller import Connection, Controller, LegacyAdvertiser
from bumble.link import LocalLink
from bumble.transport.common import StreamPacketSink, StreamPacketSource

MAX_CONTROLLERS = 128  # the air's broadcast is quadratic; a ward has fewer
SUPERVISION_S = 0.5  # how long a link outlives a peer that went silent
_EXTENDED = hci.LeFeatureMask.LE_EXTENDED_ADVERTISING | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING | hci.LeFeatureMask.LL_PRIVACY


class Air(LocalLink):
    """A LocalLink with repairs: links by both their ends (two radios may claim one address), silent loss, cheap broadcast.

    A connection that nobody took ends as on the air: it fails to be established.
    """

    def _end(self, address: hci.Address, peer: hci.Address) -> Controller | None:
        """The controller at the ``address`` end of a link with ``peer``."""
        for c in self.controllers:
            connection = c.le_connections.get(peer)
            if connection is not None and connection.self_address == address:
                return c
        return None

    def send_acl_data(
        self, sender_controller: Controller, destination_address: hci.Address, transport: core.PhysicalTransport, data: bytes
    ) -> None:
        """Deliver from the address that the connection was made with (bumble takes whatever address is random now)."""
        connection = sender_controller.le_connections.get(destination_address)
        receiver = None if connection is None else self._end(destination_address, connection.self_address)
        if connection is not None and receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.on_link_acl_data, connection.self_address, transport, data)

    def send_advertising_pdu(self, sender_controller: Controller, packet: ll.AdvertisingPdu) -> None:
        """Deliver an advertisement only to those who listen, a connection request only to whoever has its target's address."""
        loop = asyncio.get_running_loop()
        if isinstance(packet, ll.ConnectInd):
            for c in self.controllers:
                if c is not sender_controller and packet.advertiser_address in (c.random_address, c.public_address):
                    loop.call_soon(c.on_ll_advertising_pdu, packet)
            loop.call_later(SUPERVISION_S, self._established, packet)
            return
        for c in self.controllers:
            if c is not sender_controller and (c.le_scan_enable or c.pending_le_connection):
                loop.call_soon(c.on_ll_advertising_pdu, packet)

    def send_ll_control_pdu(self, sender_address: hci.Address, receiver_address: hci.Address, packet: ll.ControlPdu) -> None:
        """Deliver a control PDU; one for a peer that is gone is lost, as on the air."""
        receiver = self._end(receiver_address, sender_address)
        if receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.on_ll_control_pdu, sender_address, packet)

    def lose(self, gone: Controller) -> None:
        """Take a controller off the air; its peers' links end with a supervision timeout."""
        gone.le_legacy_advertiser.stop()
        for s in gone.advertising_sets.values():
            s.stop()
        gone.hci_sink = None
        gone.pending_le_connection = None
        links = list(gone.le_connections.values())
        gone.le_connections.clear()
        self.remove_controller(gone)
        loop = asyncio.get_running_loop()
        for link in links:
            loop.call_later(SUPERVISION_S, self._time_out, link.self_address, link.peer_address)

    def _time_out(self, lost: hci.Address, peer: hci.Address) -> None:
        self._end_alone(peer, lost, hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)

    def _established(self, packet: ll.ConnectInd) -> None:
        failed = hci.HCI_ErrorCode.CONNECTION_FAILED_TO_BE_ESTABLISHED_ERROR
        self._end_alone(packet.initiator_address, packet.advertiser_address, failed)

    def _end_alone(self, address: hci.Address, peer: hci.Address, reason: int) -> None:
        """End a link at ``address`` whose other end is not there."""
        controller = self._end(address, peer)
        if controller is not None and self._end(peer, address) is None:
            controller.on_le_disconnected(controller.le_connections[peer], reason)


class AirAdvertiser(LegacyAdvertiser):
    """Advertises without being connectable too."""

    def send_advertising_data(self) -> None:
        """One advertising event."""
        if self.enabled and self.advertising_type == hci.HCI_LE_Set_Advertising_Parameters_Command.AdvertisingType.ADV_NONCONN_IND:
            self.controller.send_advertising_pdu(ll.AdvNonConnInd(self.address, self.advertising_data))
        else:
            super().send_advertising_data()


class AirController(Controller):
    """A Controller that can cancel a pending connection, and speaks legacy advertising only (as real kernels expect of it)."""

    def __init__(self, name: str, air: Air, public_address: str) -> None:
        super().__init__(name, link=air, public_address=public_address)
        self.le_features &= ~_EXTENDED
        self.le_legacy_advertiser = AirAdvertiser(self)

    def on_ll_advertising_pdu(self, packet: ll.AdvertisingPdu) -> None:
        """Report a broadcast too; nobody connects to one."""
        if not isinstance(packet, ll.AdvNonConnInd):
            super().on_ll_advertising_pdu(packet)
        elif self.le_scan_enable:
            kind, at = hci.HCI_LE_Advertising_Report_Event, packet.advertiser_address
            report = kind.Report(kind.EventType.ADV_NONCONN_IND, at.address_type, at, packet.data, -50)
            self.send_hci_packet(kind([report]))

    def on_hci_le_create_connection_cancel_command(
        self, _command: hci.HCI_LE_Create_Connection_Cancel_Command
    ) -> hci.HCI_StatusReturnParameters:
        """Forget the pending connection and say so (Core, Vol 4, Part E, 7.8.13)."""
        pending, self.pending_le_connection = self.pending_le_connection, None
        if pending is not None:
            asyncio.get_running_loop().call_soon(
                self.send_hci_packet,
                hci.HCI_LE_Connection_Complete_Event(
                    status=hci.HCI_ErrorCode.UNKNOWN_CONNECTION_IDENTIFIER_ERROR,
                    connection_handle=0,
                    role=hci.Role.CENTRAL,
                    peer_address_type=pending.peer_address.address_type,
                    peer_address=pending.peer_address,
                    connection_interval=0,
                    peripheral_latency=0,
                    supervision_timeout=0,
                    central_clock_accuracy=0,
                ),
            )
        return hci.HCI_StatusReturnParameters(hci.HCI_ErrorCode.SUCCESS)

    def on_le_disconnected(self, connection: Connection, reason: int) -> None:
        """End a link once: both ends may hang up at the same moment."""
        if self.le_connections.get(connection.peer_address) is connection:
            super().on_le_disconnected(connection, reason)


class Socket(StreamPacketSource):
    """One host's HCI socket: a controller lives as long as its connection."""

    def __init__(self, air: Air, number: int) -> None:
        super().__init__()
        self._air, self._number = air, number
        self._controller: AirController | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Plug in a controller."""
        assert isinstance(transport, asyncio.WriteTransport)
        if len(self._air.controllers) >= MAX_CONTROLLERS:
            transport.close()
            return
        self._controller = AirController(
            f"hci-{self._number}", self._air, f"00:1B:DC:00:{self._number >> 8:02X}:{self._number & 255:02X}"
        )
        self._controller.host = StreamPacketSink(transport)
        self.set_packet_sink(self._controller)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pull it out."""
        if self._controller is not None:
            self._air.lose(self._controller)
            self._controller = None


async def serve(directory: Path) -> None:
    """Serve ``directory/hci.sock`` until SIGTERM."""
    air, loop, path = Air(), asyncio.get_running_loop(), directory / "hci.sock"
    numbers = iter(range(1, 1 << 16))
    path.unlink(missing_ok=True)
    server = await loop.create_unix_server(lambda: Socket(air, next(numbers)), str(path))
    path.chmod(0o666)
    stop = asyncio.Event()
    for s in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(s, stop.set)
    print("ready", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where hci.sock is made")
    a = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(serve(a.dir))


if __name__ == "__main__":
    main()
