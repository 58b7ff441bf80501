# SPDX-License-Identifier: Apache-2.0

"""Backends that come with the core, registered through the same hooks as any plugin."""
