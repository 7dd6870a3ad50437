module chatoracle

go 1.24
