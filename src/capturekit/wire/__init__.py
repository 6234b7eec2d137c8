"""What goes over the wire: the answers of the HTTP API as types, for the server and for clients.

Needs pydantic alone. A newer server may say more than is known here; that is left out.
"""
