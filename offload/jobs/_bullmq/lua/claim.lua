--@include common placing ending claiming
--@bullmq finish moveToFinished-14
--@bullmq take moveToActive-11
for i = 7, #ARGV do
  register(ARGV[i])
end
return claim(2)
