"""Wireshark's side: its profile, its extcap interface, and tshark as a second opinion."""
