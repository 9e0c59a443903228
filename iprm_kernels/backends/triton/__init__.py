"""The Triton backend: `ops` is what the dispatcher sees; all else imports Triton, and is imported when first needed."""
