"""The systems that VSPCN is compared with: one file a method, its settings, module and losses together."""
