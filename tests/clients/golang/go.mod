module fastgw/clients

go 1.24
