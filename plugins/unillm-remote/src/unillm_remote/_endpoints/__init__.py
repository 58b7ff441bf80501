# SPDX-License-Identifier: Apache-2.0

"""The endpoints of servers: how each kind takes and gives token ids.

An endpoint knows its form and which fields it honours, and nothing of HTTP.
"""
