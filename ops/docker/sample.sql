-- A small database, so that there is something to seed.
CREATE DATABASE shop;
USE shop;
CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(80) NOT NULL, joined DATE NOT NULL);
CREATE TABLE orders (id INT PRIMARY KEY, customer_id INT NOT NULL, total_cents INT NOT NULL, note TEXT, KEY (customer_id));
INSERT INTO customers SELECT seq, CONCAT('customer ', seq), DATE_ADD('2020-01-01', INTERVAL seq % 1500 DAY) FROM seq_1_to_5000;
INSERT INTO orders SELECT seq, 1 + seq % 5000, seq * 37 % 100000, REPEAT(CONCAT('note ', seq, ' '), 20) FROM seq_1_to_50000;
