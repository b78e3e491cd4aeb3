"""Approval: tickets of held operations, who may answer them, and how they are shown to that person.

Lives here: the desk (a state machine: pending → granted, refused, expired or withdrawn, each once and for good), the book of
tickets whose connection did not wait, and the rendering, made of the same ticket that was digested. May not live here: sockets, sessions, clocks (the time comes as an
argument) and history (the gate's events are the history; a ticket's text exists only while it is pending).
"""

from __future__ import annotations

from hostagent.approval.book import Book, Kept
from hostagent.approval.desk import ApprovalRefused, Approver, Desk
from hostagent.approval.rendering import describe, render, render_description, visible_text

__all__ = ["ApprovalRefused", "Approver", "Book", "Desk", "Kept", "describe", "render", "render_description", "visible_text"]
