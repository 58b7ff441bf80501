# SPDX-License-Identifier: Apache-2.0

"""Counters and histograms of served requests, and their text for Prometheus."""
