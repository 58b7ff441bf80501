# SPDX-License-Identifier: Apache-2.0

"""The thread that owns an engine, and the requests on their way through it. Private."""
