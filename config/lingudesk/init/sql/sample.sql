-- Enough rows to look at: for development only.

INSERT INTO public.users (email, display_name) VALUES ('ada@example.org', 'Ada'), ('grace@example.org', 'Grace');
INSERT INTO public.products (sku, name, price_cents) VALUES ('monthly', 'One month', 900), ('yearly', 'One year', 9000);
INSERT INTO content.languages (code, name) VALUES ('de', 'German'), ('fr', 'French'), ('ja', 'Japanese');
INSERT INTO content.decks (user_id, language_code, title) VALUES (1, 'de', 'Rivers and weirs'), (2, 'fr', 'Le marché');
INSERT INTO content.cards (deck_id, user_id, front, back) VALUES (1, 1, 'the weir', 'das Wehr'), (2, 2, 'apple', 'la pomme');
INSERT INTO credit.balances (user_id, credits) VALUES (1, 100), (2, 250);
INSERT INTO auth.credentials (user_id, password_hash) VALUES (1, 'not a real hash'), (2, 'nor is this');
INSERT INTO audit.logs (user_id, action) VALUES (1, 'signed up'), (2, 'signed up');
