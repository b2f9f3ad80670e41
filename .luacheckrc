std = "lua54"
max_line_length = 110
files["test/spec"] = { std = "lua54+busted" }
files["src/mtstates.d.lua"] = { ignore = { "212", "241" } } -- declarations only
files["test/examples/rules/scripts"] = { globals = { "discount" } }
