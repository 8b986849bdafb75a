module fastgw/goserver

go 1.24
