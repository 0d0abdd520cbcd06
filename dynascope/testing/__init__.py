"""Conformance checks that we ship: what every member of a family of plug-ins has to satisfy."""
