"""The report: which documents support it, and how it cites them."""
