"""The smart-card bench (X-CARDLAB): what ``imsbridge card …`` does with a card."""
