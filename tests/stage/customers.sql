-- Sample customer data: invented people, test card numbers.
set role crm_proxy;
create table customers (
    id integer primary key generated always as identity,
    name text not null,
    email text not null,
    phone text not null,
    card_number text not null,
    country text not null,
    created date not null default '2026-01-01'
);
insert into customers (name, email, phone, card_number, country) values
    ('Ada Byron', 'ada.byron@example.com', '+44 20 7946 0123', '4111 1111 1111 1111', 'GB'),
    ('Grace Murray', 'grace@example.org', '+1 202-555-0143', '5555 5555 5555 4444', 'US'),
    ('Edsger Rotterdam', 'edsger@example.net', '+31 20 555 0199', '3782 822463 10005', 'NL'),
    ('Barbara Huberman', 'barbara@example.com', '+1 310-555-0188', '4012 8888 8888 1881', 'US'),
    ('Konrad Ernst', 'konrad@example.de', '+49 30 5550 1234', '6011 1111 1111 1117', 'DE');
create table orders (
    id integer primary key generated always as identity,
    customer_id integer not null,
    item text not null,
    amount numeric(10, 2) not null,
    status text not null
);
insert into orders (customer_id, item, amount, status)
    select 1 + n % 5, 'item ' || n, n * 1.5, case when n % 3 = 0 then 'stale' else 'open' end from generate_series(1, 30) n;
create table stale_carts (id integer primary key generated always as identity, customer_id integer, note text);
insert into stale_carts (customer_id, note) select n % 5 + 1, 'abandoned ' || n from generate_series(1, 12) n;
create table notes (id integer, body text);
insert into notes values (1, 'call back ada.byron@example.com about 4111 1111 1111 1111'), (2, 'nothing of interest');
analyze;
