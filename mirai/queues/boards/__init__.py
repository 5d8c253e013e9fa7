"""Boards: tables of tasks that managers and workers share."""
