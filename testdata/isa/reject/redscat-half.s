; Each rank gets half of the output.
; expect: output-incomplete: byte 16 of 32 of output `y` is never written
object "redscat-half" target "mtia-300" hbm 1024 sram 0

entry e0 "main" {
  ranks 2
  input "x" f32 (8) hbm:0
  output "y" f32 (8) hbm:512
  transfer x0 hbm:0 hbm:512 f32 x 4 add peer 0
  code:
    redscat x0
    halt
}

weights 0 {
}
