# SPDX-License-Identifier: Apache-2.0

"""The doors of servers: how each kind takes and gives token ids.

A door knows the form of one endpoint and which fields it honours, and nothing of HTTP.
"""
