; Register 1 holds whatever an earlier program left in it.
; expect: structure: kernel 0 `exp`, program p0 `exp`: register r1 is read before it is written
object "register-undefined" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Exp" "Exp"

kernel k0 "exp" grid 1x1x1x1 {
  tensor r0 in bytes 256 planes 0 256 256
  tensor r1 out bytes 256 planes 0 256 256
  buffer b0 "x" local 256 x 1
  buffer b1 "y" local 256 x 1
  view v0 f32 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v1 f32 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 64:1<64)
  view v2 f32 local k4 offset 0 (1:64, 1:64, 1:64, 1:64, 64:1)
  program p0 "exp" domain v2 parallel 5 {
    stream s0 b0-:v2 floor
    stream s1 b1+:v2 floor
    body:
      load.f32 r0, s0
      unary.exp.f32 r2, r1
      store.f32 s1, r2
  }
  code:
    ld b0+:v2, v0
    run p0
    st b1-:v2, v1
    halt
}

entry e0 "main" {
  input "x" f32 (64) hbm:0
  output "y" f32 (64) hbm:256
  launch #0 k0 (hbm:0, hbm:256) o0
  code:
    launch #0
    halt
}

weights 0 {
}
