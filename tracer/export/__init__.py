"""Captures in other forms: a part of one as a capture that stands alone, its calls as documents."""
