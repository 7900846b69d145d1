"""Reads dataset and run folders for people: frames and dictionaries, no torch, no drawing."""
