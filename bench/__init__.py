"""What governance costs, measured: ratios within one run against direct access, a bare forwarder and pgbouncer.

Lives here: the bench that ``make bench`` runs, and smaller ones of single floors. May not live here: tests (a figure that is
too low is reported, it fails nothing), and anything that the product needs.
"""
