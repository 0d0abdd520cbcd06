"""The words every room shares: errors, cards, registry, clock, settings, seeds, series, claims. No torch."""
