"""The page and the JSON API: what people and scripts see of the gateway, and how their commands reach it.

Shows one immutable picture and passes commands on; decides nothing. Refuses to know drivers, the TPM, SQL and packets: its only
sources are ``ConsolePort`` and ``AccountsPort``. Import ``gateway.web.server`` to build it; this file stays cheap.
"""
